-- Asks the workers of a queue to abort a job, and makes it due at once if it waits; one step, so
-- that no worker starts the job without the request.
--
-- KEYS[1] queue
-- ARGV[1] job id
-- Returns 1 if there is such a job, 0 if there is none in the queue.

-- #include keys
-- #include now

local queue, id = KEYS[1], ARGV[1]

if not redis.call('ZSCORE', queue, id) then return 0 end
redis.call('ZADD', abort_key(queue), now_ms(), id)
if redis.call('EXISTS', in_progress_key(queue, id)) == 0 then
  redis.call('ZADD', queue, now_ms(), id)
  redis.call('PUBLISH', wake_channel(queue), id)
end
return 1
