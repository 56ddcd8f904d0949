-- Brings the oldest deferred messages of a type back to their stream; one step, so that each is
-- always in exactly one of them. A message that has waited for too long is marked with `_final`:
-- the next failure is its last; after a pause, the time that it may wait begins anew.
--
-- KEYS[1] deferred messages
-- KEYS[2] stream
-- KEYS[3] set of the event types that have deferred messages
-- ARGV[1] event type
-- ARGV[2] maximum number of messages
-- ARGV[3] minimum time since a message was deferred, in ms
-- ARGV[4] time after which a message has waited for too long, in ms; '' after a pause
-- Returns the number of messages brought back.

-- #include now

local deferred, stream, types = unpack(KEYS)
local event_type, limit, min_age_ms, max_wait_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local now = now_ms()
local newest = string.format('%.0f', math.max(0, now - min_age_ms))
local entries = redis.call('XRANGE', deferred, '-', newest, 'COUNT', limit)
for _, entry in ipairs(entries) do
  local id, fields = unpack(entry)
  for i = 1, #fields, 2 do
    if fields[i] == '_deferred_at' then
      if not max_wait_ms then
        table.remove(fields, i)
        table.remove(fields, i)
      elseif now - tonumber(fields[i + 1]) > max_wait_ms then
        fields[#fields + 1] = '_final'
        fields[#fields + 1] = '1'
      end
      break
    end
  end
  redis.call('XADD', stream, '*', unpack(fields))
  redis.call('XDEL', deferred, id)
end
if redis.call('XLEN', deferred) == 0 then
  redis.call('DEL', deferred)
  redis.call('SREM', types, event_type)
end
return #entries
