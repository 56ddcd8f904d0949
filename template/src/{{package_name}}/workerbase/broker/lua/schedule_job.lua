-- Adds a job id to a queue and wakes idle workers if the job is the first that can be claimed, in
-- the step of the script that includes this, so that no worker looks in between.
--
-- Defines schedule_job(queue, id, due_ms).
-- Returns nothing from it.

-- #include keys

local function schedule_job(queue, id, due_ms)
  redis.call('ZADD', queue, due_ms, id)
  local head = redis.call('ZRANGE', queue, 0, 0)[1]
  if head == id or redis.call('EXISTS', in_progress_key(queue, head)) == 1 then
    redis.call('PUBLISH', wake_channel(queue), id)
  end
end
