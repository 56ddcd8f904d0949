-- Makes a scheduled job due at once and wakes idle workers; one step, so that a job which ends
-- meanwhile is not brought back.
--
-- KEYS[1] queue
-- ARGV[1] job id
-- Returns 'queued', 'due' if it was due already, 'running', and 'gone' if no such job waits or
-- runs.

-- #include keys
-- #include now
-- #include schedule_job

local queue, id, now = KEYS[1], ARGV[1], now_ms()

local score = redis.call('ZSCORE', queue, id)
if not score then return 'gone' end
if redis.call('EXISTS', in_progress_key(queue, id)) == 1 then return 'running' end
if tonumber(score) <= now then return 'due' end
schedule_job(queue, id, now)
return 'queued'
