-- Tells workers that died from an outage of Redis that all workers saw, in the step of the script
-- that includes this.
--
-- Every worker notes under `key` that it reached Redis. If none did so for most of a lease, Redis
-- was unavailable, or frozen, or its clock was set forward, and the leases that ended meanwhile may
-- belong to workers that live: they get as long as a lease to renew them. A worker that starts
-- after all others died waits likewise before it reclaims their work.
--
-- Defines grace_end(key, now, lease_ms).
-- Returns from it the time, in ms since the epoch, before which no lease that has ended may be
-- reclaimed.

local function grace_end(key, now, lease_ms)
  local noted, grace = string.match(redis.call('GET', key) or '', '^(%d+) (%d+)$')
  local since = noted and now - noted or lease_ms / 2
  if since > lease_ms * 0.7 then grace = string.format('%.0f', now + lease_ms) end
  if since > lease_ms * 0.1 or since < 0 then
    redis.call('SET', key, string.format('%.0f ', now) .. (grace or 0), 'PX', 86400000)
  end
  return tonumber(grace or 0)
end
