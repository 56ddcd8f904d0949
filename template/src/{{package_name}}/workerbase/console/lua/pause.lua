-- Begins or ends a pause, by the clock of Redis, and removes the pauses that are over; one step, so
-- that it removes none that somebody else begins anew.
--
-- KEYS[1] pauses
-- ARGV[1] what is paused, as `{kind}:{name}`
-- ARGV[2] JSON object of who and why, '' to end the pause
-- ARGV[3] length of the pause in ms, '' for one that ends by hand
-- Returns 1 if it was paused before, else 0.

-- #include now

local pauses, what, about, length_ms = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])

local now, known, was_paused = now_ms(), redis.call('HGETALL', pauses), 0
for i = 1, #known, 2 do
  local ends = cjson.decode(known[i + 1])['until']
  local over = type(ends) == 'number' and ends <= now
  if known[i] == what and not over then was_paused = 1 end
  if over or known[i] == what then redis.call('HDEL', pauses, known[i]) end
end
if about ~= '' then
  local pause = cjson.decode(about)
  pause['since'] = now
  if length_ms then pause['until'] = now + length_ms end
  redis.call('HSET', pauses, what, cjson.encode(pause))
end
return was_paused
