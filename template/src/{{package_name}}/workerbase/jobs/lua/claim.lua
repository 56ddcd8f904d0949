-- Claims due jobs, oldest first; one step, so that no two workers claim the same job.
--
-- The score of a claimed job is the end of its lease: the job is due again if its worker dies, and
-- in no fleet do running jobs hide the waiting ones. The in-progress key holds the owner, which is
-- the worker's name and the number of the claim, and lasts as long. While a job is claimed its
-- score ends in .25, and in .5 once its start is confirmed (`renew.lua`): a job that is due with
-- such a score was not released, its worker died with it. A claimed job does not expire.
--
-- Up to `limit` jobs are claimed, but beyond the free slots only jobs that were never claimed
-- before, since the others may be what killed their worker. Of the jobs whose workers died
-- repeatedly ("suspects") no more than `max_suspects` are claimed; the rest are passed over, and so
-- are all whose leases ended in an outage that all workers saw (`grace.lua`), for a while.
--
-- A worker with slots left free can leave its name and the length of its leases in the set of idle
-- workers: an enqueue then claims for it what is due at once (`enqueue_job.lua`).
--
-- KEYS[1] queue
-- KEYS[2] key of the answer to the worker's last claim
-- ARGV[1] number of free slots
-- ARGV[2] maximum number of jobs
-- ARGV[3] length of a lease, in ms
-- ARGV[4] worker
-- ARGV[5] number of this claim of the worker; a claim that is sent again keeps it
-- ARGV[6] how long the answer is remembered, in ms
-- ARGV[7] how long the attempts of a job are remembered, in ms
-- ARGV[8] 1 to look for requests to abort, else 0
-- ARGV[9] maximum number of suspects
-- ARGV[10] attempt from which a job whose worker died is a suspect
-- ARGV[11] 1 to be listed as idle if slots stay free, else 0
-- Returns a flat list: the time until the first job left is due, in ms ('' if there is none), then
-- for each claimed job its id, its score, the serialized job (false if it has expired), the number
-- of this attempt, and 1 if the job is to be aborted, else 0.

-- #include answer
-- #include grace
-- #include keys
-- #include now

local queue, answer_key = KEYS[1], KEYS[2]
local free_slots, limit, lease_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local worker, request, answer_ttl_ms, attempts_ttl_ms = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local check_aborts, list_as_idle = ARGV[8] == '1', ARGV[11] == '1'
local max_suspects, suspect_attempt = tonumber(ARGV[9]), tonumber(ARGV[10])
local owner = worker .. ' ' .. request

local function mget(key_of, ids)
  local names = {}
  for i, id in ipairs(ids) do names[i] = key_of(queue, id) end
  return redis.call('MGET', unpack(names))
end

local reply = {''}
local function add(id, score, attempt, abort)
  local n = #reply
  reply[n + 1], reply[n + 2] = id, score
  reply[n + 3] = redis.call('GETEX', job_key(queue, id), 'PERSIST')
  reply[n + 4], reply[n + 5] = attempt, abort
end

-- What this claim took when its answer was lost, as far as it is still held.
local function claimed_before(answer)
  local from = 1
  while from <= #answer do
    local size, score, abort, start = string.match(answer, '^(%d+) (%S+) (%d) ()', from)
    from = start + size
    local id = string.sub(answer, start, from - 1)
    if redis.call('GET', in_progress_key(queue, id)) == owner then
      add(id, score, redis.call('GET', retry_key(queue, id)), tonumber(abort))
    end
  end
  reply[1] = '0'
  return reply
end

local now, grace, lease_end, next_due
local soonest = math.huge
local answer, scores, claimed, from = {}, {}, 0, 0
while claimed < limit and from < 5000 and #scores < 5000 do
  local size = from > claimed and 100 or limit - claimed
  local page = redis.call('ZRANGE', queue, from, from + size - 1, 'WITHSCORES')
  if #page > 0 and not now then  -- an empty queue costs an idle worker one command
    now = now_ms()
    lease_end, grace = now + lease_ms, grace_end(alive_key(queue), now, lease_ms)
    check_aborts = check_aborts and redis.call('EXISTS', abort_key(queue)) == 1
    local answered = recall(answer_key, request)
    if answered then return claimed_before(answered) end
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
  for i, id in ipairs(ids) do
    local score = page[i * 2]
    local attempt = (tonumber(attempts[i]) or 0) + 1
    local abandoned = score % 1 > 0
    local suspect = attempt >= suspect_attempt and abandoned
    if owners[i] then
      from = from + 1
      if owners[i] ~= '1' then  -- ours, not arq's: its lease ends just now, or Job.abort moved it
        local ends = now + math.max(redis.call('PTTL', in_progress_key(queue, id)), 1)
        soonest = math.min(soonest, ends)
        scores[#scores + 1] = ends + (abandoned and score % 1 or 0.5)
        scores[#scores + 1] = id
      end
    elseif abandoned and now < grace then
      from = from + 1
      soonest = math.min(soonest, grace)
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
      redis.call('SET', in_progress_key(queue, id), owner, 'PX', lease_ms)
      redis.call('SET', retry_key(queue, id), attempt, 'PX', attempts_ttl_ms)
      scores[#scores + 1] = lease_end + 0.25
      scores[#scores + 1] = id
      local abort = check_aborts and redis.call('ZREM', abort_key(queue), id) or 0
      add(id, score, attempt, abort)
      answer[claimed] = #id .. ' ' .. score .. ' ' .. abort .. ' ' .. id
    end
  end
  if next_due then break end
end
next_due = math.min(next_due or math.huge, soonest)
if next_due < math.huge then reply[1] = string.format('%.0f', next_due - now) end
if #scores > 0 then redis.call('ZADD', queue, 'XX', unpack(scores)) end
if claimed > 0 then remember(answer_key, request, table.concat(answer), answer_ttl_ms) end
local idle_workers, me = idle_key(queue), worker .. ' ' .. lease_ms
if claimed >= free_slots then
  redis.call('SREM', idle_workers, me)
elseif list_as_idle then
  redis.call('SADD', idle_workers, me)
  redis.call('PEXPIRE', idle_workers, lease_ms)
end
return reply
