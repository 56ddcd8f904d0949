-- Defers an entry: moves it to the stream of deferred messages of its group and type, from which
-- `resume` brings it back; one step, so that the message is always in exactly one of them. The
-- writes that Redis can refuse at `maxmemory` come before the acknowledgement, which it cannot.
--
-- KEYS[1] stream
-- KEYS[2] deferred messages
-- KEYS[3] set of the event types that have deferred messages
-- ARGV[1] group
-- ARGV[2] consumer, or empty; see `owned`
-- ARGV[3] entry id
-- ARGV[4] event type
-- ARGV[5] maximum number of deferred messages
-- ARGV[6] 1 if the message may wait for a limited time, which is counted from now, else 0
-- ARGV[7..] names and values of the fields
-- Returns 1 if the entry was deferred, 0 if there is no room, -1 if the consumer no longer owns the
-- entry.

-- #include owned
-- #include now

local stream, deferred, types = unpack(KEYS)
local group, consumer, entry_id, event_type = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local max_entries, limited = tonumber(ARGV[5]), ARGV[6] == '1'

if not owned(stream, group, consumer, entry_id) then return -1 end
if redis.call('XLEN', deferred) >= max_entries then return 0 end
local fields, since = {unpack(ARGV, 7)}, nil
for i = 1, #fields, 2 do
  if fields[i] == '_deferred_at' then since = fields[i + 1] end
end
if limited and not since then
  fields[#fields + 1] = '_deferred_at'
  fields[#fields + 1] = string.format('%.0f', now_ms())
end
redis.call('XADD', deferred, '*', unpack(fields))
redis.call('SADD', types, event_type)
redis.call('XACK', stream, group, entry_id)
return 1
