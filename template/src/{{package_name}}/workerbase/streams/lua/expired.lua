-- Finds the oldest entries whose leases have ended and what is remembered of their last starts;
-- one step, so that after an outage nothing is found that its consumer had no time to renew.
--
-- KEYS[1] stream
-- KEYS[2] notes on suspects
-- KEYS[3] key under which workers note that they reach Redis
-- ARGV[1] group
-- ARGV[2] idle time from which a lease has ended, in ms
-- ARGV[3] idle time of released entries, which no outage concerns, in ms
-- ARGV[4] how long leases may be renewed after an outage, in ms
-- ARGV[5] maximum number of entries
-- Returns for each entry {id, number of deliveries, note or false}.

-- #include min_idle

local stream, notes = KEYS[1], KEYS[2]
local group, limit = ARGV[1], ARGV[5]

local idle_ms = min_idle(KEYS[3], ARGV[2], ARGV[3], ARGV[4])
local rows = redis.call('XPENDING', stream, group, 'IDLE', idle_ms, '-', '+', limit)
for i, row in ipairs(rows) do
  rows[i] = {row[1], row[4], redis.call('HGET', notes, row[1])}
end
return rows
