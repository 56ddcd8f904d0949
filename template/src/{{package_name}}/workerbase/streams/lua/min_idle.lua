-- Tells from which idle time on entries may be reclaimed now, in the step of the script that
-- includes this.
--
-- Defines min_idle(alive, lease_ms, released_ms, grace_ms); alive is the key under which workers
-- note that they reach Redis.
-- Returns from it lease_ms, or in the grace after an outage released_ms.

-- #include now
-- #include grace

local function min_idle(alive, lease_ms, released_ms, grace_ms)
  local now = now_ms()
  return now < grace_end(alive, now, tonumber(grace_ms)) and released_ms or lease_ms
end
