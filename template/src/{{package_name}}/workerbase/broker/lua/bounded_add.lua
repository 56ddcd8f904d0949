-- Adds an entry to a stream and removes the oldest entries beyond a bound, in the step of the
-- script that includes this, so that the stream never exceeds the bound.
--
-- Defines bounded_add(stream, max_entries, first): the names and values of the fields are
-- ARGV[first..]; a `max_entries` of 0 means without a bound.
-- Returns from it the number of entries removed, 0 if there was room.

local function bounded_add(stream, max_entries, first)
  redis.call('XADD', stream, '*', unpack(ARGV, first))
  if max_entries > 0 and redis.call('XLEN', stream) > max_entries then
    return redis.call('XTRIM', stream, 'MAXLEN', '=', max_entries)
  end
  return 0
end
