-- Checks the ownership of a job, in the step of the script that includes this, so that nobody else
-- claims it before the script has acted.
--
-- Defines owned(queue, id, owner).
-- Returns from it whether the claim `owner` holds the job. It does, too, when its lease has ended
-- and nobody has claimed the job since: that was an outage, and nobody else runs it.

-- #include keys

local function owned(queue, id, owner)
  local holder = redis.call('GET', in_progress_key(queue, id))
  if holder then return holder == owner end
  local score = redis.call('ZSCORE', queue, id)
  return score and score % 1 > 0
end
