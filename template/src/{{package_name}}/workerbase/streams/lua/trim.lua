-- Removes the entries before the first one that some group has not settled; one step, so that no
-- group is created or receives an entry between the check and the removal.
--
-- MINID, and not XDEL or MAXLEN: deleting single entries makes the lag in XINFO unknown, and MAXLEN
-- removes undelivered entries.
--
-- KEYS[1] stream
-- Returns the number of entries removed (0 if none, or if the stream has no group).

local stream = KEYS[1]

local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local ms, seq
for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local info = {}
  for i = 1, #group, 2 do info[group[i]] = group[i + 1] end
  local m, s
  if info['pending'] > 0 then
    m, s = parts(redis.call('XPENDING', stream, info['name'])[2])
  else
    m, s = parts(info['last-delivered-id'])
    s = s + 1
  end
  if not ms or m < ms or (m == ms and s < seq) then ms, seq = m, s end
end
if not ms then return 0 end
local id = string.format('%.0f-%.0f', ms, seq)
local removed = redis.call('XTRIM', stream, 'MINID', '~', id, 'LIMIT', 100000)
if removed < 50000 then removed = removed + redis.call('XTRIM', stream, 'MINID', '=', id) end
return removed
