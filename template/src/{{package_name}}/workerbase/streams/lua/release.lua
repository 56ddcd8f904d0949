-- Releases all entries of a consumer except those to keep: others can reclaim them at once, and the
-- delivery to this consumer is not counted; one step, so that it cannot release what another
-- consumer reclaims in between.
--
-- KEYS[1] stream
-- ARGV[1] group
-- ARGV[2] consumer
-- ARGV[3..] entry ids to keep
-- Returns the number of entries released.

local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]

local keep, count = {}, 0
for i = 3, #ARGV do keep[ARGV[i]] = true end
for _, row in ipairs(redis.call('XPENDING', stream, group, '-', '+', 1000000, consumer)) do
  if not keep[row[1]] then
    redis.call('XCLAIM', stream, group, consumer, 0, row[1],
      'IDLE', 86400000, 'RETRYCOUNT', math.max(row[4] - 1, 0), 'JUSTID')
    count = count + 1
  end
end
return count
