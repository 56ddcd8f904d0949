-- Restores the ownership of entries that the consumer holds and that nobody owns any more, as after
-- XGROUP DELCONSUMER; one step, so that an entry which another consumer receives is left to it.
-- What the group has not received yet (it was created again) will be received.
--
-- KEYS[1] stream
-- ARGV[1] group
-- ARGV[2] consumer
-- ARGV[3..] entry ids
-- Returns a list of those that nobody owned, in the order of the arguments: id, and 1 if it is in
-- the stream and owned again, 0 if it was trimmed meanwhile, so that only the consumer has it.

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
    local exists = #redis.call('XRANGE', stream, id, id) > 0
    if exists then
      redis.call('XCLAIM', stream, group, consumer, 0, id, 'FORCE', 'RETRYCOUNT', 1, 'JUSTID')
    end
    restored[#restored + 1] = {id, exists and 1 or 0}
  end
end
return restored
