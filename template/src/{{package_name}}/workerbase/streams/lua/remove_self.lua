-- Removes the calling consumer from its group if it holds nothing; one step, since DELCONSUMER
-- would drop what it receives between the check and the removal.
--
-- KEYS[1] stream
-- ARGV[1] group
-- ARGV[2] consumer
-- Returns 1 if the consumer was removed, 0 if it still holds entries.

local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]

if #redis.call('XPENDING', stream, group, '-', '+', 1, consumer) > 0 then return 0 end
redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer)
return 1
