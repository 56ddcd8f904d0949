-- Restores the ownership of entries that the consumer holds and that nobody owns any more, as after
-- XGROUP DELCONSUMER; one step, so that an entry which another consumer receives is left to it.
-- What the group has not received yet (it was created again) will be received.
--
-- KEYS[1] stream
-- ARGV[1] group
-- ARGV[2] consumer
-- ARGV[3..] entry ids
-- Returns a list of the ids that nobody owned, in the order of the arguments.

-- #include entry_ids
-- #include info

local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]

local last_id = '0-0'
for _, row in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local info = info_of(row)
  if info['name'] == group then last_id = info['last-delivered-id'] end
end
local restored = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local is_owned = #redis.call('XPENDING', stream, group, id, id, 1) > 0
  if not is_owned and not is_before(last_id, id) then
    if #redis.call('XRANGE', stream, id, id) > 0 then
      redis.call('XCLAIM', stream, group, consumer, 0, id, 'FORCE', 'RETRYCOUNT', 1, 'JUSTID')
    end
    restored[#restored + 1] = id
  end
end
return restored
