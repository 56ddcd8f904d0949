-- Removes the entries before the first one that some group has not settled; one step, so that no
-- group is created or receives an entry between the check and the removal.
--
-- MINID, and not XDEL or MAXLEN: deleting single entries makes the lag in XINFO unknown, and MAXLEN
-- removes undelivered entries.
--
-- KEYS[1] stream
-- Returns the number of entries removed (0 if none, or if the stream has no group).

-- #include entry_ids
-- #include info

local stream = KEYS[1]

local first  -- the first entry that some group has not settled
for _, row in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local info, unsettled = info_of(row), nil
  if info['pending'] > 0 then
    unsettled = redis.call('XPENDING', stream, info['name'])[2]
  else
    unsettled = next_id(info['last-delivered-id'])
  end
  if not first or is_before(unsettled, first) then first = unsettled end
end
if not first then return 0 end
local removed = redis.call('XTRIM', stream, 'MINID', '~', first, 'LIMIT', 100000)
if removed < 50000 then
  removed = removed + redis.call('XTRIM', stream, 'MINID', '=', first)
end
return removed
