-- Claims due jobs, oldest first; one step, so that no two workers claim the same job.
--
-- The score of a claimed job is the end of its lease: the job is due again if its worker dies, and
-- in no fleet do running jobs hide the waiting ones. The in-progress key holds the owner's name and
-- lasts as long. While a job is claimed its score ends in .5: a job that is due with such a score
-- was not released, its worker died with it.
--
-- Up to `limit` jobs are claimed, but beyond the free slots only jobs that were never claimed
-- before, since the others may be what killed their worker. Of the jobs whose workers died
-- repeatedly ("suspects") no more than `max_suspects` are claimed; the rest are passed over.
--
-- A worker with slots left free can leave its name and the length of its leases in the set of idle
-- workers: an enqueue then claims for it what is due at once (`enqueue_job.lua`).
--
-- KEYS[1] queue
-- ARGV[1] number of free slots
-- ARGV[2] maximum number of jobs
-- ARGV[3] length of a lease, in ms
-- ARGV[4] worker
-- ARGV[5] how long the attempts of a job are remembered, in ms
-- ARGV[6] 1 to look for requests to abort, else 0
-- ARGV[7] maximum number of suspects
-- ARGV[8] attempt from which a job whose worker died is a suspect
-- ARGV[9] 1 to be listed as idle if slots stay free, else 0
-- Returns a flat list: the time until the first job left is due, in ms ('' if there is none), then
-- for each claimed job its id, its score, the serialized job (false if it has expired), the number
-- of this attempt, and 1 if the job is to be aborted, else 0.

-- #include keys
-- #include now

local queue = KEYS[1]
local free_slots, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
local lease_ms, worker, attempts_ttl_ms = ARGV[3], ARGV[4], ARGV[5]
local check_aborts, list_as_idle = ARGV[6] == '1', ARGV[9] == '1'
local max_suspects, suspect_attempt = tonumber(ARGV[7]), tonumber(ARGV[8])

local function mget(key_of, ids)
  local names = {}
  for i, id in ipairs(ids) do names[i] = key_of(queue, id) end
  return redis.call('MGET', unpack(names))
end

local now, lease_end
local soonest = math.huge
local reply, next_due, scores, claimed, from = {''}, nil, {}, 0, 0
while claimed < limit and from < 5000 and #scores < 5000 do
  local size = from > claimed and 100 or limit - claimed
  local page = redis.call('ZRANGE', queue, from, from + size - 1, 'WITHSCORES')
  if #page > 0 and not now then  -- an empty queue costs an idle worker one command
    now = now_ms()
    lease_end = now + lease_ms + 0.5
  end
  local ids = {}
  for i = 1, #page, 2 do
    if tonumber(page[i + 1]) > now then
      next_due = tonumber(page[i + 1])
      break
    end
    ids[#ids + 1] = page[i]
  end
  if #ids == 0 then break end
  local owners = mget(in_progress_key, ids)
  local attempts = mget(retry_key, ids)
  local jobs = mget(job_key, ids)
  for i, id in ipairs(ids) do
    local score = page[i * 2]
    local attempt = (tonumber(attempts[i]) or 0) + 1
    local suspect = attempt >= suspect_attempt and score % 1 > 0
    if owners[i] then
      from = from + 1
      if owners[i] ~= '1' then  -- ours, not arq's: its lease ends just now, or Job.abort moved it
        local ends = now + math.max(redis.call('PTTL', in_progress_key(queue, id)), 1) + 0.5
        soonest = math.min(soonest, ends)
        scores[#scores + 1] = ends
        scores[#scores + 1] = id
      end
    elseif suspect and max_suspects < 1 then
      from = from + 1
    elseif claimed >= limit or attempt > 1 and claimed >= free_slots then
      limit = claimed
      next_due = tonumber(score)
      break
    else
      claimed = claimed + 1
      from = from + 1
      if suspect then max_suspects = max_suspects - 1 end
      redis.call('SET', in_progress_key(queue, id), worker, 'PX', lease_ms)
      redis.call('SET', retry_key(queue, id), attempt, 'PX', attempts_ttl_ms)
      scores[#scores + 1] = lease_end
      scores[#scores + 1] = id
      local abort = check_aborts and redis.call('ZREM', abort_key(queue), id) or 0
      for _, value in ipairs({id, score, jobs[i], attempt, abort}) do
        reply[#reply + 1] = value
      end
    end
  end
  if next_due then break end
end
next_due = math.min(next_due or math.huge, soonest)
if next_due < math.huge then reply[1] = string.format('%.0f', next_due - now) end
if #scores > 0 then redis.call('ZADD', queue, 'XX', unpack(scores)) end
local idle_workers, me = idle_key(queue), worker .. ' ' .. lease_ms
if claimed >= free_slots then
  redis.call('SREM', idle_workers, me)
elseif list_as_idle then
  redis.call('SADD', idle_workers, me)
  redis.call('PEXPIRE', idle_workers, lease_ms)
end
return reply
