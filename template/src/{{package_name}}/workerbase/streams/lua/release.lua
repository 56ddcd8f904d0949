-- Releases all entries of a consumer except those to keep: others can reclaim them at once, and the
-- delivery to this consumer is not counted; one step, so that it cannot release what another
-- consumer reclaims in between. What was released before stays as it is.
--
-- KEYS[1] stream
-- ARGV[1] group
-- ARGV[2] consumer
-- ARGV[3] idle time of what is released, in ms
-- ARGV[4] number of entries to keep
-- ARGV[5..] ids of the entries to keep, then of those whose number of deliveries stays
-- Returns the number of entries released.

local stream, group, consumer, idle_ms, kept = KEYS[1], unpack(ARGV, 1, 4)

local keep, as_counted, count = {}, {}, 0
for i = 5, #ARGV do
  local list = i < 5 + kept and keep or as_counted
  list[ARGV[i]] = true
end
for _, row in ipairs(redis.call('XPENDING', stream, group, '-', '+', 1000000, consumer)) do
  local id, idle, deliveries = row[1], row[3], row[4]
  if not keep[id] and idle < tonumber(idle_ms) then
    if not as_counted[id] then deliveries = math.max(deliveries - 1, 0) end
    redis.call('XCLAIM', stream, group, consumer, 0, id,
      'IDLE', idle_ms, 'RETRYCOUNT', deliveries, 'JUSTID')
    count = count + 1
  end
end
return count
