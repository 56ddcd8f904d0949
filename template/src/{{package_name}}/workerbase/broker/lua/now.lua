-- Tells the time by the clock of Redis, in the step of the script that includes this. Due times,
-- leases and ticks follow this clock alone, since the clocks of hosts differ.
--
-- Defines now_ms().
-- Returns from it the time in ms since the epoch.

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
