-- Releases a claimed job to run again; one step, so that a job which another worker has claimed is
-- left to it.
--
-- KEYS[1] queue
-- KEYS[2] key of the answer to the end of this claim
-- ARGV[1] job id
-- ARGV[2] owner
-- ARGV[3] how long the answer is remembered, in ms
-- ARGV[4] time until the job is due, in ms
-- ARGV[5] the job in its new serialized form, '' to keep it
-- ARGV[6] 1 if this attempt is not counted, else 0; 1 also wakes idle workers if the job is due
-- Returns 1 if the job was released, now or when this was sent before, 0 if it is held no longer.

-- #include answer
-- #include keys
-- #include now
-- #include owned

local queue, answer_key = KEYS[1], KEYS[2]
local id, owner, answer_ttl_ms, delay_ms, job, uncounted = unpack(ARGV)

if not owned(queue, id, owner) then return recall(answer_key, '1') and 1 or 0 end
if job ~= '' then redis.call('SET', job_key(queue, id), job, 'XX') end
redis.call('ZADD', queue, 'XX', now_ms() + delay_ms, id)
redis.call('DEL', in_progress_key(queue, id))
if uncounted == '1' then
  redis.call('DECR', retry_key(queue, id))
  if delay_ms == '0' then redis.call('PUBLISH', wake_channel(queue), id) end
end
remember(answer_key, '1', '', answer_ttl_ms)
return 1
