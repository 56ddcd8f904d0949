-- Enqueues a job and, if it is due at once, claims it for an idle worker, in the step of the script
-- that includes this, so that no other worker claims it in between.
--
-- An idle worker leaves "{worker} {lease in ms}" in the set of idle workers. The job is sent along
-- on the worker's own channel, with the name of this claim, which saves it a round trip; a worker
-- that does not listen any more is skipped.
--
-- Defines enqueue_job(this_job_key, this_result_key, queue, id, job, due, expires), whose
-- parameters are the keys and arguments of `enqueue.lua`.
-- Returns from it 1 if the job was enqueued, 0 if a job with this id exists, -1 if one exists in
-- another queue, and the result of the last job with this id if that is kept.

-- #include keys
-- #include now
-- #include schedule_job

local function hand_over(queue, id, job, due_ms, now)
  while true do
    local idle = redis.call('SPOP', idle_key(queue))
    if not idle then return false end
    local worker, lease_ms = string.match(idle, '^(.*) (%d+)$')
    local time = redis.call('TIME')
    local claim = 'h' .. time[1] .. '.' .. time[2]
    -- string.format ends at a NUL
    local message = #id .. ' ' .. due_ms .. ' ' .. claim .. ' ' .. id .. job
    if redis.call('PUBLISH', hand_over_channel(queue, worker), message) > 0 then
      local lease_end = now + lease_ms + 0.25
      redis.call('SET', in_progress_key(queue, id), worker .. ' ' .. claim, 'PX', lease_ms)
      redis.call('SET', retry_key(queue, id), 1, 'PX', 88400000)  -- as long as arq keeps it
      redis.call('ZADD', queue, lease_end, id)
      return true
    end
  end
end

-- The time that `text` means: after `start` if it begins with '+', else since the epoch.
local function time_after(text, start)
  return string.sub(text, 1, 1) == '+' and start + string.sub(text, 2) or tonumber(text)
end

local function enqueue_job(this_job_key, this_result_key, queue, id, job, due, expires)
  if redis.call('EXISTS', this_job_key) == 1 then
    return redis.call('ZSCORE', queue, id) and 0 or -1
  end
  if redis.call('EXISTS', in_progress_key(queue, id)) == 1 then return 0 end
  local result = redis.call('GET', this_result_key)
  if result then return result end
  local now = now_ms()
  local due_ms = time_after(due, now)
  local expires_ms = time_after(expires, math.max(due_ms - now, 0))
  redis.call('SET', this_job_key, job, 'PX', math.max(expires_ms, 1))
  redis.call('ZREM', abort_key(queue), id)  -- a request that meant a former job with this id
  if due_ms <= now and hand_over(queue, id, job, due_ms, now) then
    redis.call('SET', this_job_key, job)  -- a claimed job does not expire
    return 1
  end
  schedule_job(queue, id, due_ms)
  return 1
end
