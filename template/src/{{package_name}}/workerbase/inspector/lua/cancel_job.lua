-- Cancels a job: one that waits is removed and leaves a result for those who wait for it, of one
-- that runs its worker is asked; one step, so that no worker claims it in between. The write that
-- Redis can refuse at `maxmemory` comes first.
--
-- KEYS[1] queue
-- ARGV[1] job id
-- ARGV[2] result
-- ARGV[3] how long the result is kept, in ms ('': no result)
-- ARGV[4] current time in ms since the epoch, if workers may be asked, else ''
-- Returns 'cancelled', 'requested' of one that runs, 'running' if its worker may not be asked, and
-- 'gone' if no such job waits or runs.

-- #include keys

local queue = KEYS[1]
local id, result, keep_ms, now = unpack(ARGV)
local requests = abort_key(queue)

if not redis.call('ZSCORE', queue, id) then return 'gone' end
if redis.call('EXISTS', in_progress_key(queue, id)) == 1 then
  if now == '' then return 'running' end
  redis.call('ZADD', requests, now, id)
  return 'requested'
end
if keep_ms ~= '' then
  redis.call('SET', result_key(queue, id), result, 'PX', keep_ms)
end
redis.call('DEL', job_key(queue, id), retry_key(queue, id))
redis.call('ZREM', requests, id)
redis.call('ZREM', queue, id)
return 'cancelled'
