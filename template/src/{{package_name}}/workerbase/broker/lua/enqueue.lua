-- Enqueues a job as arq's `enqueue_job` does, and hands it to an idle worker or wakes idle ones;
-- one step, so that of two enqueues with one id only one succeeds, in a single round trip.
--
-- KEYS[1] key of the job
-- KEYS[2] key of its result
-- KEYS[3] queue
-- ARGV[1] job id
-- ARGV[2] serialized job
-- ARGV[3] time at which the job is due, in ms since the epoch; with a '+', in ms from now
-- ARGV[4] time until the job expires, in ms; with a '+', in ms after it is due
-- Returns 1 if the job was enqueued, 0 if a job with this id exists, -1 if one exists in another
-- queue, and the result of the last job with this id if that is kept.

-- #include enqueue_job

local id, job, due, expires = unpack(ARGV)

return enqueue_job(KEYS[1], KEYS[2], KEYS[3], id, job, due, expires)
