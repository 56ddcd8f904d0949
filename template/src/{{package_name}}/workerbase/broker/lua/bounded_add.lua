-- Adds an entry to a stream and removes the oldest entries beyond a bound, in the step of the
-- script that includes this, so that the stream never exceeds the bound for long.
--
-- An entry with a field `_group` costs other groups none of theirs while its own group has some:
-- one that fails without end must not push out what others still have to look at. Where many
-- entries of other groups come first, the search goes on with the next entry that is added.
--
-- Defines bounded_add(stream, max_entries, first): the names and values of the fields are
-- ARGV[first..]; a `max_entries` of 0 means without a bound.
-- Returns from it the number of entries removed, 0 if there was room.

-- #include keys

local PAGE, MAX_EXAMINED = 50, 1000

local function field(fields, first, name)
  for i = first, #fields, 2 do
    if fields[i] == name then return fields[i + 1] end
  end
end

local function drop_oldest_of(group, stream, max_entries, added)
  local position_key = oldest_key(stream, group)
  local position = redis.call('GET', position_key) or '-'
  local dropped, examined, missing = 0, 0, false
  while redis.call('XLEN', stream) > max_entries and examined < MAX_EXAMINED and not missing do
    local page = redis.call('XRANGE', stream, position, '(' .. added, 'COUNT', PAGE)
    missing = #page == 0
    for _, entry in ipairs(page) do
      position = '(' .. entry[1]
      examined = examined + 1
      if (field(entry[2], 1, '_group') or group) == group then
        dropped = dropped + redis.call('XDEL', stream, entry[1])
        if redis.call('XLEN', stream) <= max_entries then break end
      end
    end
  end
  redis.call('SET', position_key, missing and added or position, 'PX', POSITION_TTL_MS)
  if missing then dropped = dropped + redis.call('XTRIM', stream, 'MAXLEN', '=', max_entries) end
  return dropped
end

local function bounded_add(stream, max_entries, first)
  local added = redis.call('XADD', stream, '*', unpack(ARGV, first))
  if max_entries == 0 or redis.call('XLEN', stream) <= max_entries then return 0 end
  local group = field(ARGV, first, '_group')
  if not group then return redis.call('XTRIM', stream, 'MAXLEN', '=', max_entries) end
  return drop_oldest_of(group, stream, max_entries, added)
end
