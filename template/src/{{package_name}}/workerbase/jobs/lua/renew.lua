-- Renews the leases of jobs; one step, so that a job which another worker claims in between is left
-- to it.
--
-- KEYS[1] queue
-- ARGV[1] worker
-- ARGV[2] end of the leases, in ms since the epoch
-- ARGV[3] length of a lease, in ms
-- ARGV[4..] job ids
-- Returns a list of the ids that the worker no longer owns, in the order of the arguments.

-- #include keys

local queue = KEYS[1]
local worker, lease_end, lease_ms = ARGV[1], ARGV[2] + 0.5, ARGV[3]

local progress_keys, scores, lost = {}, {}, {}
for i = 4, #ARGV do progress_keys[#progress_keys + 1] = in_progress_key(queue, ARGV[i]) end
for i, owner in ipairs(redis.call('MGET', unpack(progress_keys))) do
  local id = ARGV[i + 3]
  if owner == worker then
    redis.call('PEXPIRE', progress_keys[i], lease_ms)
    scores[#scores + 1] = lease_end
    scores[#scores + 1] = id
  else
    lost[#lost + 1] = id
  end
end
-- XX: a job that has ended meanwhile is not brought back.
if #scores > 0 then redis.call('ZADD', queue, 'XX', unpack(scores)) end
return lost
