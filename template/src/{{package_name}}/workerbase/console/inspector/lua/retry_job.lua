-- Enqueues a job that has ended once more, in place of its result; one step, so that of two callers
-- only one enqueues it. The write that Redis can refuse at `maxmemory` comes first.
--
-- KEYS[1] queue
-- ARGV[1] job id
-- ARGV[2] serialized job
-- ARGV[3] time until the job expires, in ms
-- Returns 'queued', 'exists' if a job with this id waits or runs, and 'gone' if there is no result.

-- #include keys
-- #include now
-- #include schedule_job

local queue = KEYS[1]
local id, job, expires_ms = unpack(ARGV)

if redis.call('EXISTS', job_key(queue, id)) == 1 then return 'exists' end
if redis.call('EXISTS', result_key(queue, id)) == 0 then return 'gone' end
redis.call('SET', job_key(queue, id), job, 'PX', expires_ms)
redis.call('DEL', result_key(queue, id), retry_key(queue, id))
redis.call('ZREM', abort_key(queue), id)
schedule_job(queue, id, now_ms())
return 'queued'
