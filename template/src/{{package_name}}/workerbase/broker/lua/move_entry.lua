-- Moves an entry from one stream to another with new fields; one step, so that two callers cannot
-- move it twice and no crash loses it.
--
-- KEYS[1] source stream
-- KEYS[2] target stream
-- ARGV[1] entry id
-- ARGV[2..] names and values of the fields
-- Returns 1 if the entry was moved, 0 if it was moved or purged before.

local source, target, entry_id = KEYS[1], KEYS[2], ARGV[1]

if #redis.call('XRANGE', source, entry_id, entry_id) == 0 then return 0 end
redis.call('XADD', target, '*', unpack(ARGV, 2))
redis.call('XDEL', source, entry_id)
return 1
