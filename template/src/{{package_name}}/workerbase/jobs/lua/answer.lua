-- Remembers what a script has answered, in the step of the script that includes this: a script is
-- sent again when its answer is lost, by redis-py or by us, and must then change nothing.
--
-- Defines recall(key, request) and remember(key, request, answer, ttl_ms): the requests of a sender
-- are numbered, and `key` keeps the answer to the last one, a string.
-- Returns from recall the answer if `request` was answered before ('' if it is older than the last
-- one: nobody waits for it any more), else nothing.

local function recall(key, request)
  local last, answer = string.match(redis.call('GET', key) or '', '^(%d+) (.*)$')
  if last and tonumber(last) >= tonumber(request) then return last == request and answer or '' end
  return nil
end

local function remember(key, request, answer, ttl_ms)
  redis.call('SET', key, request .. ' ' .. answer, 'PX', ttl_ms)
end
