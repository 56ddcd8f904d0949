-- Removes a consumer group that nobody reads; one step, so that no consumer begins to read between
-- the check and the removal.
--
-- KEYS[1] stream
-- ARGV[1] group
-- ARGV[2] time for which no consumer may have asked for entries, in ms
-- Returns 'removed', 'alive' if a consumer asked for entries since, and 'gone' if there is no such
-- group.

-- #include info

local stream, group, min_silence_ms = KEYS[1], ARGV[1], tonumber(ARGV[2])

if redis.call('EXISTS', stream) == 0 then return 'gone' end
local found = false
for _, row in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  found = found or info_of(row)['name'] == group
end
if not found then return 'gone' end
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  if info_of(row)['idle'] < min_silence_ms then return 'alive' end
end
redis.call('XGROUP', 'DESTROY', stream, group)
return 'removed'
