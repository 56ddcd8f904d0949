-- Schedules the job that requeues a failed entry and acknowledges the entry; one step, so that the
-- message is always either pending or in the job. The writes that Redis can refuse at `maxmemory`
-- come before the acknowledgement, which it cannot.
--
-- KEYS[1] stream
-- KEYS[2] key of the job
-- KEYS[3] queue
-- ARGV[1] group
-- ARGV[2] consumer, or empty; see `owned`
-- ARGV[3] entry id
-- ARGV[4] job id
-- ARGV[5] serialized job
-- ARGV[6] time until the job is due, in ms
-- Returns 1 if the retry was scheduled, 0 if the consumer no longer owns the entry.

-- #include now
-- #include owned
-- #include schedule_job

local stream, this_job_key, queue = unpack(KEYS)
local group, consumer, entry_id, job_id, job, delay_ms = unpack(ARGV)

if not owned(stream, group, consumer, entry_id) then return 0 end
redis.call('SET', this_job_key, job)
schedule_job(queue, job_id, now_ms() + delay_ms)
redis.call('XACK', stream, group, entry_id)
return 1
