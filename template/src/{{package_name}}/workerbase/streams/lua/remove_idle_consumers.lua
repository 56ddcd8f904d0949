-- Removes consumers that have been idle for long and hold nothing; one step, since DELCONSUMER
-- would drop what a consumer receives between the check and the removal.
--
-- KEYS[1] stream
-- ARGV[1] group
-- ARGV[2] consumer to keep
-- ARGV[3] idle time that a consumer must exceed, in ms
-- Returns a list of the names of the consumers removed.

-- #include info

local stream, group, keep, min_idle_ms = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])

local removed = {}
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  local info = info_of(row)
  if info['name'] ~= keep and info['pending'] == 0 and info['idle'] > min_idle_ms then
    redis.call('XGROUP', 'DELCONSUMER', stream, group, info['name'])
    removed[#removed + 1] = info['name']
  end
end
return removed
