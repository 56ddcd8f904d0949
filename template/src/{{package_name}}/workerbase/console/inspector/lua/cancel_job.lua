-- Cancels a job: one that waits is removed and leaves a result for those who wait for it, of one
-- that runs its worker is asked; one step, so that no worker claims it in between. The write that
-- Redis can refuse at `maxmemory` comes first.
--
-- KEYS[1] queue
-- ARGV[1] job id
-- ARGV[2] result
-- ARGV[3] how long the result is kept, in ms ('': no result)
-- ARGV[4] 1 if workers may be asked, else 0
-- Returns 'cancelled', 'requested' of one that runs, 'running' if its worker may not be asked, and
-- 'gone' if no such job waits or runs.

-- #include keys
-- #include now

local queue = KEYS[1]
local job_id, result, result_ttl_ms, may_ask = unpack(ARGV)

if not redis.call('ZSCORE', queue, job_id) then return 'gone' end
if redis.call('EXISTS', in_progress_key(queue, job_id)) == 1 then
  if may_ask == '0' then return 'running' end
  redis.call('ZADD', abort_key(queue), now_ms(), job_id)
  return 'requested'
end
if result_ttl_ms ~= '' then
  redis.call('SET', result_key(queue, job_id), result, 'PX', result_ttl_ms)
end
redis.call('ZREM', queue, job_id)
redis.call('ZREM', abort_key(queue), job_id)
redis.call('DEL', job_key(queue, job_id), retry_key(queue, job_id))
return 'cancelled'
