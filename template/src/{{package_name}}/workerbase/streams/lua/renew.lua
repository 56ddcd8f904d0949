-- Renews leases by setting the idle time of entries to 0; one step, so that an entry which another
-- consumer reclaims in between is not taken back from it.
--
-- KEYS[1] stream
-- ARGV[1] group
-- ARGV[2] consumer
-- ARGV[3..] entry ids
-- Returns a list of the ids that the consumer no longer owns, in the order of the arguments.

local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]

local mine = {}
for _, row in ipairs(redis.call('XPENDING', stream, group, '-', '+', 1000000, consumer)) do
  mine[row[1]] = true
end
local keep, lost = {}, {}
for i = 3, #ARGV do
  local list = mine[ARGV[i]] and keep or lost
  list[#list + 1] = ARGV[i]
end
for first = 1, #keep, 1000 do  -- Lua cannot unpack more than 8,000 values
  local ids = {unpack(keep, first, math.min(first + 999, #keep))}
  ids[#ids + 1] = 'JUSTID'
  redis.call('XCLAIM', stream, group, consumer, 0, unpack(ids))
end
return lost
