-- Enqueues one tick of a cron job like `enqueue.lua`, unless that tick or a later one was enqueued
-- before; one step, so that of several workers only one enqueues the tick.
--
-- KEYS[1] key of the job
-- KEYS[2] key of its result
-- KEYS[3] queue
-- KEYS[4] key that remembers the last tick
-- ARGV[1] job id
-- ARGV[2] serialized job
-- ARGV[3] time at which the job is due, as in `enqueue.lua`
-- ARGV[4] time until the job expires, as in `enqueue.lua`
-- ARGV[5] time of the tick, in ms since the epoch
-- ARGV[6] how long the tick is remembered, in ms
-- Returns 1 if the job was enqueued, 0 if this tick or a later one was enqueued before; else what
-- `enqueue.lua` returns.

-- #include enqueue_job

local tick_key = KEYS[4]
local id, job, due, expires, tick_ms, tick_ttl_ms = unpack(ARGV)

local last_ms = tonumber(redis.call('GET', tick_key))
if last_ms and last_ms >= tonumber(tick_ms) then return 0 end
redis.call('SET', tick_key, tick_ms, 'PX', tick_ttl_ms)
return enqueue_job(KEYS[1], KEYS[2], KEYS[3], id, job, due, expires)
