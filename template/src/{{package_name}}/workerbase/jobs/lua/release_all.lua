-- Releases all jobs of a worker except those to keep, without counting their attempts, and removes
-- the worker from the set of idle workers; one step, so that it is handed no job in between.
--
-- KEYS[1] queue
-- ARGV[1] worker
-- ARGV[2] length of a lease, in ms
-- ARGV[3..] job ids to keep
-- Returns the number of jobs released.

-- #include keys
-- #include now

local queue = KEYS[1]
local worker, lease_ms, now = ARGV[1], ARGV[2], now_ms()

redis.call('SREM', idle_key(queue), worker .. ' ' .. lease_ms)
local kept, count = {}, 0
for i = 3, #ARGV do kept[ARGV[i]] = true end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', queue, now, now + lease_ms + 1000)) do
  local owner = redis.call('GET', in_progress_key(queue, id)) or ''
  if not kept[id] and string.sub(owner, 1, #worker + 1) == worker .. ' ' then
    redis.call('ZADD', queue, 'XX', now, id)
    redis.call('DECR', retry_key(queue, id))
    redis.call('DEL', in_progress_key(queue, id))
    count = count + 1
  end
end
if count > 0 then redis.call('PUBLISH', wake_channel(queue), count) end
return count
