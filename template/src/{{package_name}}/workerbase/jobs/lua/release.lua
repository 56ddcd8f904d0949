-- Releases a claimed job to run again; one step, so that a job which another worker has claimed is
-- left to it.
--
-- KEYS[1] queue
-- ARGV[1] worker
-- ARGV[2] job id
-- ARGV[3] time until the job is due, in ms
-- ARGV[4] the job in its new serialized form, '' to keep it
-- ARGV[5] 1 if this attempt is not counted, else 0; 1 also wakes idle workers
-- Returns 1 if the job was released, 0 if the worker no longer owns it.

-- #include keys
-- #include now

local queue = KEYS[1]
local worker, id, delay_ms, job, uncounted = unpack(ARGV)

if redis.call('GET', in_progress_key(queue, id)) ~= worker then return 0 end
if job ~= '' then redis.call('SET', job_key(queue, id), job, 'XX', 'KEEPTTL') end
redis.call('ZADD', queue, 'XX', now_ms() + delay_ms, id)
redis.call('DEL', in_progress_key(queue, id))
if uncounted == '1' then
  redis.call('DECR', retry_key(queue, id))
  redis.call('PUBLISH', wake_channel(queue), id)
end
return 1
