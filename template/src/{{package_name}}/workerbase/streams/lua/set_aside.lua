-- Moves an entry to the dead-letter queue or to the parked stream; one step, so that the message is
-- always in exactly one of them. The write that Redis can refuse at `maxmemory` comes before the
-- acknowledgement, which it cannot.
--
-- KEYS[1] stream
-- KEYS[2] target stream
-- ARGV[1] group
-- ARGV[2] consumer, or empty; see `owned`
-- ARGV[3] entry id
-- ARGV[4] maximum number of entries in the target, 0 for no bound
-- ARGV[5..] names and values of the fields
-- Returns -1 if the consumer no longer owns the entry, else the number of oldest entries removed
-- from the target to keep the bound (0 if none).

-- #include owned
-- #include bounded_add

local stream, target = KEYS[1], KEYS[2]
local group, consumer, entry_id, max_entries = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

if not owned(stream, group, consumer, entry_id) then return -1 end
local dropped = bounded_add(target, max_entries, 5)
redis.call('XACK', stream, group, entry_id)
return dropped
