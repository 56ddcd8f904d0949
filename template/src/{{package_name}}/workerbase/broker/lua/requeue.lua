-- Adds a message to a stream once and deletes the job that does so; one step, so that a job which
-- runs again after a crash cannot add the message a second time.
--
-- KEYS[1] target stream
-- KEYS[2] key that remembers that this failure was requeued
-- KEYS[3] queue of the job
-- KEYS[4] key of the job
-- ARGV[1] job id
-- ARGV[2] how long the requeue is remembered, in ms
-- ARGV[3] maximum number of entries in the target, 0 for no bound
-- ARGV[4..] names and values of the message's fields
-- Returns -1 if this failure was requeued before, else the number of oldest entries removed from
-- the target to keep the bound (0 if none).

-- #include keys
-- #include bounded_add

local target, dedup_key, queue, this_job_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local job_id, dedup_ttl_ms, max_entries = ARGV[1], ARGV[2], tonumber(ARGV[3])

if redis.call('EXISTS', dedup_key) == 1 then return -1 end
local dropped = bounded_add(target, max_entries, 4)
redis.call('SET', dedup_key, '1', 'PX', dedup_ttl_ms)
redis.call('ZREM', queue, job_id)
redis.call('DEL', this_job_key, retry_key(queue, job_id))
return dropped
