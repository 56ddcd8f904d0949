# Owned by arq-worker-template: `copier update` overwrites edits; add scripts in your own modules.
"""Steps that Redis must take as one: each script is one verb.

Every script that settles an entry first asks whether the caller still owns it, so that a worker
that slept through its lease cannot undo what the new owner does. Writes that can be refused
(XADD at maxmemory) come before those that cannot (XACK), so that a refused script has done
nothing. All of it runs on Redis 6.2, 7 and Valkey.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoScriptError

from .types import RedisArg, RedisClient, SyncRedisClient


class Script:
    """A Lua script that is sent once and called by its digest."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def run_sync(
        self, redis: SyncRedisClient, keys: Sequence[str], args: Sequence[RedisArg] = ()
    ) -> Any:
        """The same for code without an event loop."""
        try:
            return redis.execute_command("EVALSHA", self._sha, len(keys), *keys, *args)
        except NoScriptError:
            return redis.execute_command("EVAL", self.source, len(keys), *keys, *args)

    async def __call__(
        self, redis: RedisClient, keys: Sequence[str], args: Sequence[RedisArg] = ()
    ) -> Any:
        """Run the script; raises what Redis answers."""
        try:
            return await redis.execute_command("EVALSHA", self._sha, len(keys), *keys, *args)
        except NoScriptError:
            return await redis.execute_command("EVAL", self.source, len(keys), *keys, *args)


_OWNED = """
local function owned(stream, group, consumer, id)
  return #redis.call('XPENDING', stream, group, id, id, 1, consumer) > 0
end
"""

# KEYS stream  ARGV group, consumer, id...
# Returns the ids that the consumer no longer owns; the others' idle time starts again at 0.
renew = Script("""
local mine = {}
for _, row in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1000000, ARGV[2])) do
  mine[row[1]] = true
end
local keep, lost = {}, {}
for i = 3, #ARGV do
  local list = mine[ARGV[i]] and keep or lost
  list[#list + 1] = ARGV[i]
end
for first = 1, #keep, 1000 do
  local ids = {unpack(keep, first, math.min(first + 999, #keep))}
  ids[#ids + 1] = 'JUSTID'
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(ids))
end
return lost
""")

# KEYS stream  ARGV group, consumer, min idle in ms, most
# Takes over the oldest entries whose leases have run out, without counting a delivery. Redis 7
# takes deleted ones out of the pending list and names them; Redis 6.2 claims them like others.
# Returns for each: id, deliveries so far, fields (false if it was deleted).
reclaim = Script("""
local stale = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], '-', '+', ARGV[4])
if #stale == 0 then return {} end
local deliveries, taken = {}, {}
for _, row in ipairs(stale) do deliveries[row[1]] = row[4] end
local reply = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], stale[1][1],
  'COUNT', #stale, 'JUSTID')
for _, id in ipairs(reply[2]) do
  local body = redis.call('XRANGE', KEYS[1], id, id)
  if #body == 0 then redis.call('XACK', KEYS[1], ARGV[1], id) end
  taken[#taken + 1] = {id, deliveries[id] or 1, #body > 0 and body[1][2]}
end
for _, id in ipairs(reply[3] or {}) do taken[#taken + 1] = {id, deliveries[id] or 1, false} end
return taken
""")

# KEYS stream  ARGV group, consumer, id
# Counts a delivery of an entry that `reclaim` took. Returns the count, 0 if it is no longer ours.
begin = Script(
    _OWNED
    + """
if not owned(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) then return 0 end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3])
local row = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)[1]
return row and row[4] or 0
"""
)

# KEYS stream  ARGV group, consumer, id to keep...
# Lets others take all but the kept entries of the consumer at once, as if not delivered to it.
# Returns how many.
hand_back = Script("""
local keep, count = {}, 0
for i = 3, #ARGV do keep[ARGV[i]] = true end
for _, row in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1000000, ARGV[2])) do
  if not keep[row[1]] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, row[1],
      'IDLE', 86400000, 'RETRYCOUNT', math.max(row[4] - 1, 0), 'JUSTID')
    count = count + 1
  end
end
return count
""")

_ADD = """
local function add(queue, id, due)
  redis.call('ZADD', queue, due, id)
  local head = redis.call('ZRANGE', queue, 0, 0)[1]
  if head == id or redis.call('EXISTS', 'arq:in-progress:' .. head) == 1 then
    redis.call('PUBLISH', queue .. ':wake', id)
  end
end
"""

# KEYS stream, job key, queue  ARGV group, consumer, id, job id, job, due in ms
# Hands a failed entry over to an arq job. Returns 1, or 0 if the entry is no longer ours.
schedule_retry = Script(
    _OWNED
    + _ADD
    + """
if not owned(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) then return 0 end
redis.call('SET', KEYS[2], ARGV[5])
add(KEYS[3], ARGV[4], ARGV[6])
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
return 1
"""
)

_BOUNDED_ADD = """
local function bounded_add(stream, most, first)
  redis.call('XADD', stream, '*', unpack(ARGV, first))
  if most > 0 and redis.call('XLEN', stream) > most then
    return redis.call('XTRIM', stream, 'MAXLEN', '=', most)
  end
  return 0
end
"""

# KEYS stream, target  ARGV group, consumer, id, bound, name, value...
# Moves an entry to the DLQ or the parked stream. Returns -1 if the entry is no longer ours,
# else how many of the oldest entries of the target had to go.
set_aside = Script(
    _OWNED
    + _BOUNDED_ADD
    + """
if not owned(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) then return -1 end
local dropped = bounded_add(KEYS[2], tonumber(ARGV[4]), 5)
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
return dropped
"""
)

# KEYS target stream, dedup key, queue, job key  ARGV job id, dedup ttl in ms, bound, name, value...
# Adds a message once and takes the job that does so from the queue. Returns -1 if that was done
# before, else how many of the oldest entries of the target had to go.
requeue = Script(
    _BOUNDED_ADD
    + """
if redis.call('EXISTS', KEYS[2]) == 1 then return -1 end
local dropped = bounded_add(KEYS[1], tonumber(ARGV[3]), 4)
redis.call('SET', KEYS[2], '1', 'PX', ARGV[2])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('DEL', KEYS[4])
return dropped
"""
)

# KEYS set-aside stream, work stream  ARGV id, name, value...
# Moves an entry back to where it came from. Returns 0 if it was moved or purged before.
replay = Script("""
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return 0 end
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 2))
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
""")

# KEYS stream
# Removes the entries before the first that some group has not settled. MINID, and not XDEL or
# MAXLEN: deleting single entries makes XINFO's lag unknown, and MAXLEN takes undelivered ones.
# Returns how many went.
trim = Script("""
local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
local ms, seq
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local info = {}
  for i = 1, #group, 2 do info[group[i]] = group[i + 1] end
  local m, s
  if info['pending'] > 0 then
    m, s = parts(redis.call('XPENDING', KEYS[1], info['name'])[2])
  else
    m, s = parts(info['last-delivered-id'])
    s = s + 1
  end
  if not ms or m < ms or (m == ms and s < seq) then ms, seq = m, s end
end
if not ms then return 0 end
local id = string.format('%.0f-%.0f', ms, seq)
local removed = redis.call('XTRIM', KEYS[1], 'MINID', '~', id, 'LIMIT', 100000)
if removed < 50000 then removed = removed + redis.call('XTRIM', KEYS[1], 'MINID', '=', id) end
return removed
""")

# KEYS stream  ARGV group, consumer to keep, idle in ms
# Removes consumers that are gone and hold nothing; DELCONSUMER would drop what they hold.
# Returns their names.
forget = Script("""
local gone = {}
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local info = {}
  for i = 1, #row, 2 do info[row[i]] = row[i + 1] end
  if info['name'] ~= ARGV[2] and info['pending'] == 0 and info['idle'] > tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], info['name'])
    gone[#gone + 1] = info['name']
  end
end
return gone
""")

# KEYS stream  ARGV group, consumer
# The same for a consumer that says goodbye. Returns 1 if it held nothing.
leave = Script("""
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return 0 end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1
""")

# --- jobs: arq's keys, see `arq.constants`
#
# A claimed job's score in the queue is the end of its lease: it is due again if its worker dies,
# and no fleet is so large that running jobs hide the waiting ones. The in-progress key holds the
# owner's name and lasts as long. While it is claimed the score ends in .5: a job that is due with
# such a score was not released, its worker died with it.

# An idle worker leaves its name and the length of its leases in the set {queue}:idle. An enqueue
# claims for it what is due at once, and sends the job along: no round trip, no other worker.

_ENQUEUE = """
local function hand_over(id, job, due)
  while true do
    local idle = redis.call('SPOP', KEYS[3] .. ':idle')
    if not idle then return false end
    local worker, lease = string.match(idle, '^(.*) (%d+)$')
    local claim = #id .. ' ' .. due .. ' ' .. id .. job  -- string.format ends at a NUL
    if redis.call('PUBLISH', KEYS[3] .. ':wake:' .. worker, claim) > 0 then
      local time = redis.call('TIME')
      local ends = time[1] * 1000 + math.floor(time[2] / 1000) + lease + 0.5
      redis.call('SET', 'arq:in-progress:' .. id, worker, 'PX', lease)
      redis.call('SET', 'arq:retry:' .. id, 1, 'PX', 88400000)
      redis.call('ZADD', KEYS[3], ends, id)
      return true
    end
  end
end
local function enqueue(id, job, expiry, due, at_once)
  if redis.call('EXISTS', KEYS[1], KEYS[2], 'arq:in-progress:' .. id) > 0 then return 0 end
  redis.call('SET', KEYS[1], job, 'PX', expiry)
  redis.call('ZREM', 'arq:abort', id)  -- meant a former job of this name
  if at_once == '1' and hand_over(id, job, due) then return 1 end
  add(KEYS[3], id, due)
  return 1
end
"""

# KEYS job key, result key, queue  ARGV job id, job, expiry in ms, due in ms, 1 if due at once
# arq's enqueue_job in one step; an idle worker is given the job, or idle ones are woken.
# Returns 0 if a job with this id exists.
enqueue = Script(_ADD + _ENQUEUE + "return enqueue(unpack(ARGV))")

# KEYS job key, result key, queue, tick key  ARGV those of `enqueue`, tick in ms, its ttl in ms
# The same for a tick of a cron job, unless that tick or a later one was enqueued before.
enqueue_tick = Script(
    _ADD
    + _ENQUEUE
    + """
local last = tonumber(redis.call('GET', KEYS[4]))
if last and last >= tonumber(ARGV[6]) then return 0 end
redis.call('SET', KEYS[4], ARGV[6], 'PX', ARGV[7])
return enqueue(unpack(ARGV, 1, 5))
"""
)

# KEYS queue  ARGV now in ms, free slots, most, lease in ms, worker, count's ttl in ms, aborts,
# suspects, the try from which a crash makes a job one, 1 to be called idle if slots stay free
# Claims due jobs, oldest first: up to `most`, but beyond the free slots only such as never were
# claimed, for the others may be what killed their worker. Of those whose workers died twice it
# claims no more than `suspects` and passes the others by. Returns the score of the first job
# that it left ('' if there is none), then for each claimed job: id, score, job (false if it
# expired), number of this try, and 1 if it is to be aborted.
claim = Script("""
local now, free, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local suspects, soon = tonumber(ARGV[8]), math.huge
local function prefixed(prefix, ids)
  local keys = {}
  for i, id in ipairs(ids) do keys[i] = prefix .. id end
  return redis.call('MGET', unpack(keys))
end
local reply, scores, claimed, from = {''}, {}, 0, 0
while claimed < most and from < 5000 and #scores < 5000 do
  local size = from > claimed and 100 or most - claimed
  local page = redis.call('ZRANGE', KEYS[1], from, from + size - 1, 'WITHSCORES')
  local ids = {}
  for i = 1, #page, 2 do
    if tonumber(page[i + 1]) > now then
      reply[1] = page[i + 1]
      break
    end
    ids[#ids + 1] = page[i]
  end
  if #ids == 0 then break end
  local owners = prefixed('arq:in-progress:', ids)
  local tries = prefixed('arq:retry:', ids)
  local jobs = prefixed('arq:job:', ids)
  for i, id in ipairs(ids) do
    local try = (tonumber(tries[i]) or 0) + 1
    local suspect = try >= tonumber(ARGV[9]) and page[i * 2] % 1 > 0
    if owners[i] then
      from = from + 1
      if owners[i] ~= '1' then  -- ours: its lease ends just now, or Job.abort moved it
        local ends = now + math.max(redis.call('PTTL', 'arq:in-progress:' .. id), 1) + 0.5
        soon = math.min(soon, ends)
        scores[#scores + 1] = ends
        scores[#scores + 1] = id
      end
    elseif suspect and suspects < 1 then
      from = from + 1
    elseif claimed >= most or try > 1 and claimed >= free then
      most = claimed
      reply[1] = page[i * 2]
      break
    else
      claimed = claimed + 1
      from = from + 1
      if suspect then suspects = suspects - 1 end
      redis.call('SET', 'arq:in-progress:' .. id, ARGV[5], 'PX', ARGV[4])
      redis.call('SET', 'arq:retry:' .. id, try, 'PX', ARGV[6])
      scores[#scores + 1] = now + ARGV[4] + 0.5
      scores[#scores + 1] = id
      local abort = ARGV[7] == '1' and redis.call('ZREM', 'arq:abort', id) or 0
      for _, value in ipairs({id, page[i * 2], jobs[i], try, abort}) do
        reply[#reply + 1] = value
      end
    end
  end
  if reply[1] ~= '' then break end
end
if soon < (tonumber(reply[1]) or math.huge) then reply[1] = string.format('%.1f', soon) end
if #scores > 0 then redis.call('ZADD', KEYS[1], 'XX', unpack(scores)) end
local idle, me = KEYS[1] .. ':idle', ARGV[5] .. ' ' .. ARGV[4]
if claimed >= free then
  redis.call('SREM', idle, me)
elseif ARGV[10] == '1' then
  redis.call('SADD', idle, me)
  redis.call('PEXPIRE', idle, ARGV[4])
end
return reply
""")

# KEYS queue  ARGV worker, end of the lease in ms, lease in ms, job id...
# Returns the ids that the worker no longer owns.
renew_jobs = Script("""
local keys, scores, lost = {}, {}, {}
for i = 4, #ARGV do keys[#keys + 1] = 'arq:in-progress:' .. ARGV[i] end
for i, owner in ipairs(redis.call('MGET', unpack(keys))) do
  local id = ARGV[i + 3]
  if owner == ARGV[1] then
    redis.call('PEXPIRE', keys[i], ARGV[3])
    scores[#scores + 1] = ARGV[2] + 0.5
    scores[#scores + 1] = id
  else
    lost[#lost + 1] = id
  end
end
if #scores > 0 then redis.call('ZADD', KEYS[1], 'XX', unpack(scores)) end
return lost
""")

# KEYS queue  ARGV worker, then for each job: id, result, its ttl in ms (0: for ever, '': no
# result), and for how long its in-progress key stays, in ms
# Ends jobs. Returns the ids that the worker no longer owned: theirs were left alone.
finish = Script("""
local progress, done, keys, lost = {}, {}, {}, {}
for i = 2, #ARGV, 4 do progress[#progress + 1] = 'arq:in-progress:' .. ARGV[i] end
for n, owner in ipairs(redis.call('MGET', unpack(progress))) do
  local i = n * 4 - 2
  local id, result, ttl, stay = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local score = not owner and redis.call('ZSCORE', KEYS[1], id)
  if owner == ARGV[1] or score and score % 1 > 0 then  -- its lease is over, and nobody has it
    if ttl == '0' then redis.call('SET', 'arq:result:' .. id, result, 'NX')
    elseif ttl ~= '' then redis.call('SET', 'arq:result:' .. id, result, 'PX', ttl, 'NX') end
    if stay == '0' then keys[#keys + 1] = progress[n]
    else redis.call('PEXPIRE', progress[n], stay) end
    keys[#keys + 1] = 'arq:job:' .. id
    keys[#keys + 1] = 'arq:retry:' .. id
    done[#done + 1] = id
  else
    lost[#lost + 1] = id
  end
end
if #done > 0 then
  redis.call('ZREM', KEYS[1], unpack(done))
  redis.call('ZREM', 'arq:abort', unpack(done))
  redis.call('DEL', unpack(keys))
end
return lost
""")

# KEYS queue, DLQ  ARGV worker, job id, result, its ttl in ms ('' for none), bound, name, value...
# Ends a job as a dead letter. Returns -1 if the worker no longer owned it, else how many of the
# oldest dead letters had to go.
bury = Script(
    _BOUNDED_ADD
    + """
local id = ARGV[2]
if redis.call('GET', 'arq:in-progress:' .. id) ~= ARGV[1] then return -1 end
local dropped = bounded_add(KEYS[2], tonumber(ARGV[5]), 6)
if ARGV[4] == '0' then redis.call('SET', 'arq:result:' .. id, ARGV[3])
elseif ARGV[4] ~= '' then redis.call('SET', 'arq:result:' .. id, ARGV[3], 'PX', ARGV[4]) end
redis.call('ZREM', KEYS[1], id)
redis.call('ZREM', 'arq:abort', id)
redis.call('DEL', 'arq:job:' .. id, 'arq:retry:' .. id, 'arq:in-progress:' .. id)
return dropped
"""
)

# KEYS queue  ARGV worker, job id, due in ms, job ('' as it was), uncounted
# Lets a job run again, and if `uncounted` is 1 as if it had not been claimed. Returns 0 if the
# worker no longer owned it.
release = Script("""
local id = ARGV[2]
if redis.call('GET', 'arq:in-progress:' .. id) ~= ARGV[1] then return 0 end
if ARGV[4] ~= '' then redis.call('SET', 'arq:job:' .. id, ARGV[4], 'XX', 'KEEPTTL') end
redis.call('ZADD', KEYS[1], 'XX', ARGV[3], id)
redis.call('DEL', 'arq:in-progress:' .. id)
if ARGV[5] == '1' then
  redis.call('DECR', 'arq:retry:' .. id)
  redis.call('PUBLISH', KEYS[1] .. ':wake', id)
end
return 1
""")

# KEYS queue  ARGV worker, lease in ms, now in ms, job id to keep...
# Is handed nothing more, and lets others run all but the kept jobs of the worker at once, as if
# it had not claimed them. Returns how many.
hand_back_jobs = Script("""
redis.call('SREM', KEYS[1] .. ':idle', ARGV[1] .. ' ' .. ARGV[2])
local keep, count = {}, 0
for i = 4, #ARGV do keep[ARGV[i]] = true end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[3], ARGV[3] + ARGV[2] + 1000)) do
  if not keep[id] and redis.call('GET', 'arq:in-progress:' .. id) == ARGV[1] then
    redis.call('ZADD', KEYS[1], 'XX', ARGV[3], id)
    redis.call('DECR', 'arq:retry:' .. id)
    redis.call('DEL', 'arq:in-progress:' .. id)
    count = count + 1
  end
end
if count > 0 then redis.call('PUBLISH', KEYS[1] .. ':wake', count) end
return count
""")

# KEYS DLQ, queue, job key, result key, retry key  ARGV entry id, job id, job, expiry in ms, due
# in ms
# Enqueues a dead job again. Returns 0 if that was done before, -1 if a job with its id waits.
replay_job = Script("""
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return 0 end
if redis.call('EXISTS', KEYS[3]) == 1 then return -1 end
redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[4])
redis.call('DEL', KEYS[4], KEYS[5])
redis.call('ZREM', 'arq:abort', ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[5], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[1])
redis.call('PUBLISH', KEYS[2] .. ':wake', ARGV[2])
return 1
""")

# KEYS stream  ARGV fields per message, name, value...
# Publishes messages in one step. Returns their entry ids.
publish = Script("""
local ids, width = {}, tonumber(ARGV[1])
for i = 2, #ARGV, width do
  ids[#ids + 1] = redis.call('XADD', KEYS[1], '*', unpack(ARGV, i, i + width - 1))
end
return ids
""")
