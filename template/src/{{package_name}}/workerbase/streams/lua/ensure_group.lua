-- Creates a consumer group, and its stream, where they are missing; one step, so that no other
-- group appears between the check and the creation.
--
-- KEYS[1] stream
-- ARGV[1] group
-- ARGV[2] id behind which a new group starts: '0', '$', or '' where nothing is declared
-- ARGV[3] id of the last entry that the caller has read of this group, or ''
-- Returns 1 if the group was created, 0 if it exists; a list of the names of other groups if the
-- start is not declared and others read the stream.

-- #include entry_ids
-- #include info

local stream, group, start, last_read = KEYS[1], ARGV[1], ARGV[2], ARGV[3]

local others, last_id = {}, '0-0'
if redis.call('EXISTS', stream) == 1 then
  for _, row in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local name = info_of(row)['name']
    if name == group then return 0 end
    others[#others + 1] = name
  end
  last_id = info_of(redis.call('XINFO', 'STREAM', stream))['last-generated-id']
end
if last_read ~= '' then
  start = is_before(last_id, last_read) and '0' or last_read
elseif start == '' then
  if #others > 0 then return others end
  start = '0'
end
redis.call('XGROUP', 'CREATE', stream, group, start, 'MKSTREAM')
return 1
