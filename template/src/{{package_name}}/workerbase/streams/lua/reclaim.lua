-- Reclaims the oldest entries whose leases have expired, without counting a delivery; one step, so
-- that their delivery counts and fields are those of the entries that were reclaimed.
--
-- Redis 7 removes deleted entries from the pending list and names them; Redis 6.2 claims them like
-- others, so they are acknowledged here.
--
-- KEYS[1] stream
-- ARGV[1] group
-- ARGV[2] consumer
-- ARGV[3] minimum idle time, in ms
-- ARGV[4] maximum number of entries
-- Returns a list, empty if no lease has expired; for each entry {id, number of deliveries so far,
-- list of names and values of its fields, or false if the entry was deleted}.

local stream, group, consumer, min_idle_ms, limit = KEYS[1], unpack(ARGV)

local stale = redis.call('XPENDING', stream, group, 'IDLE', min_idle_ms, '-', '+', limit)
if #stale == 0 then return {} end
local deliveries, reclaimed = {}, {}
for _, row in ipairs(stale) do deliveries[row[1]] = row[4] end
local reply = redis.call('XAUTOCLAIM', stream, group, consumer, min_idle_ms, stale[1][1],
  'COUNT', #stale, 'JUSTID')
for _, id in ipairs(reply[2]) do
  local body = redis.call('XRANGE', stream, id, id)
  if #body == 0 then redis.call('XACK', stream, group, id) end
  reclaimed[#reclaimed + 1] = {id, deliveries[id] or 1, #body > 0 and body[1][2]}
end
for _, id in ipairs(reply[3] or {}) do
  reclaimed[#reclaimed + 1] = {id, deliveries[id] or 1, false}
end
return reclaimed
