-- Sets the numbers of deliveries of entries and what is remembered of their starts; one step, so
-- that an entry which another consumer has reclaimed is not taken back from it.
--
-- KEYS[1] stream
-- KEYS[2] notes on suspects
-- ARGV[1] group
-- ARGV[2] consumer
-- ARGV[3] how long notes are kept, in ms
-- ARGV[4..] for each entry its id, its number of deliveries, and a note ('' for none)
-- Returns 1 if the consumer owns the last of the entries, else 0.

-- #include owned

local stream, notes = unpack(KEYS)
local group, consumer, ttl_ms = unpack(ARGV, 1, 3)

for i = 4, #ARGV, 3 do
  local id, deliveries, note = unpack(ARGV, i, i + 2)
  if owned(stream, group, consumer, id) then
    redis.call('XCLAIM', stream, group, consumer, 0, id, 'RETRYCOUNT', deliveries, 'JUSTID')
    if note == '' then
      redis.call('HDEL', notes, id)
    else
      redis.call('HSET', notes, id, note)
      redis.call('PEXPIRE', notes, ttl_ms)
    end
  end
end
return owned(stream, group, consumer, ARGV[#ARGV - 2]) and 1 or 0
