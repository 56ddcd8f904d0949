-- Reclaims entries whose leases have ended, without counting a delivery; one step, so that an entry
-- whose lease was renewed in between, stays with its consumer.
--
-- KEYS[1] stream
-- ARGV[1] group
-- ARGV[2] consumer
-- ARGV[3] idle time from which a lease has ended, in ms
-- ARGV[4..] entry ids
-- Returns for each entry that was reclaimed {id, number of deliveries so far, list of names and
-- values of its fields, or false if the entry was deleted, which is acknowledged}.

local stream, group, consumer, idle_ms = KEYS[1], unpack(ARGV, 1, 3)

local reclaimed = {}
for i = 4, #ARGV do
  local id = ARGV[i]
  local row = redis.call('XPENDING', stream, group, 'IDLE', idle_ms, id, id, 1)[1]
  if row then
    local body = redis.call('XRANGE', stream, id, id)[1]
    if body then
      redis.call('XCLAIM', stream, group, consumer, 0, id, 'JUSTID')
    else
      redis.call('XACK', stream, group, id)
    end
    reclaimed[#reclaimed + 1] = {id, row[4], body and body[2] or false}
  end
end
return reclaimed
