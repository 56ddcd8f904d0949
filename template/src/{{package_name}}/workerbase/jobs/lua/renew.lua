-- Renews the leases of jobs, and confirms that they have started; one step, so that a job which
-- another worker claims in between is left to it. A lease that has ended is taken again if nobody
-- has claimed its job since.
--
-- KEYS[1] queue
-- ARGV[1] length of a lease, in ms
-- ARGV[2..] for each job: its id, its owner, and 1 if it has started, else 0
-- Returns a list of the ids that are held no longer, in the order of the arguments.

-- #include grace
-- #include keys
-- #include now

local queue, lease_ms = KEYS[1], tonumber(ARGV[1])

local now = now_ms()
grace_end(alive_key(queue), now, lease_ms)
local progress_keys, scores, lost = {}, {}, {}
for i = 2, #ARGV, 3 do progress_keys[#progress_keys + 1] = in_progress_key(queue, ARGV[i]) end
for n, holder in ipairs(redis.call('MGET', unpack(progress_keys))) do
  local id, owner, started = unpack(ARGV, n * 3 - 1, n * 3 + 1)
  local score = not holder and redis.call('ZSCORE', queue, id)
  if holder == owner or score and score % 1 > 0 then
    redis.call('SET', progress_keys[n], owner, 'PX', lease_ms)
    scores[#scores + 1] = now + lease_ms + (started == '1' and 0.5 or 0.25)
    scores[#scores + 1] = id
  else
    lost[#lost + 1] = id
  end
end
-- XX: a job that has ended meanwhile is not brought back.
if #scores > 0 then redis.call('ZADD', queue, 'XX', unpack(scores)) end
return lost
