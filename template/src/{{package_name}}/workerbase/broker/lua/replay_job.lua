-- Enqueues a dead-lettered job again and removes its dead letter; one step, so that two callers
-- cannot replay it twice and no crash loses it.
--
-- KEYS[1] dead-letter queue
-- KEYS[2] queue
-- KEYS[3] key of the job
-- KEYS[4] key of its result
-- KEYS[5] key of its attempts
-- ARGV[1] entry id of the dead letter
-- ARGV[2] job id
-- ARGV[3] serialized job
-- ARGV[4] time until the job expires, in ms
-- Returns 1 if the job was enqueued, 0 if the dead letter was replayed or purged before, -1 if a
-- job with this id waits.

-- #include keys
-- #include now

local dlq, queue, this_job_key, this_result_key, this_retry_key = unpack(KEYS)
local entry_id, job_id, job, expires_ms = unpack(ARGV)

if #redis.call('XRANGE', dlq, entry_id, entry_id) == 0 then return 0 end
if redis.call('EXISTS', this_job_key) == 1 then return -1 end
redis.call('SET', this_job_key, job, 'PX', expires_ms)
redis.call('DEL', this_result_key, this_retry_key)
redis.call('ZREM', abort_key(queue), job_id)
redis.call('ZADD', queue, now_ms(), job_id)
redis.call('XDEL', dlq, entry_id)
redis.call('PUBLISH', wake_channel(queue), job_id)
return 1
