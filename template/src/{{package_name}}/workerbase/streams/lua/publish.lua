-- Publishes messages that have the same number of fields; one step, so that the messages follow one
-- another in the stream, in a single round trip.
--
-- KEYS[1] stream
-- ARGV[1] number of names and values of one message
-- ARGV[2..] names and values of all messages
-- Returns a list of the entry ids, in the order of the messages.

local stream, width = KEYS[1], tonumber(ARGV[1])

local ids = {}
for i = 2, #ARGV, width do
  ids[#ids + 1] = redis.call('XADD', stream, '*', unpack(ARGV, i, i + width - 1))
end
return ids
