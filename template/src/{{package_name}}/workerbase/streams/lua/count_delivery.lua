-- Counts a delivery of a reclaimed entry; one step, so that an entry which another consumer has
-- reclaimed is not taken back from it.
--
-- KEYS[1] stream
-- ARGV[1] group
-- ARGV[2] consumer
-- ARGV[3] entry id
-- Returns the number of deliveries, this one included; 0 if the consumer no longer owns the entry.

-- #include owned

local stream, group, consumer, entry_id = KEYS[1], unpack(ARGV)

if not owned(stream, group, consumer, entry_id) then return 0 end
redis.call('XCLAIM', stream, group, consumer, 0, entry_id)
local row = redis.call('XPENDING', stream, group, entry_id, entry_id, 1)[1]
return row and row[4] or 0
