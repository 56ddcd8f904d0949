-- Renews the leases of jobs; one step, so that a job which another worker claims in between is left
-- to it.
--
-- KEYS[1] queue
-- ARGV[1] worker
-- ARGV[2] length of a lease, in ms
-- ARGV[3..] job ids
-- Returns a list of the ids that the worker no longer owns, in the order of the arguments.

-- #include keys
-- #include now

local queue = KEYS[1]
local worker, lease_ms = ARGV[1], ARGV[2]
local lease_end = now_ms() + lease_ms + 0.5

local progress_keys, scores, lost = {}, {}, {}
for i = 3, #ARGV do progress_keys[#progress_keys + 1] = in_progress_key(queue, ARGV[i]) end
for i, owner in ipairs(redis.call('MGET', unpack(progress_keys))) do
  local id = ARGV[i + 2]
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
