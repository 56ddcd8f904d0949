-- Ends a job as a dead letter; one step, so that the job is always either in its queue or in the
-- dead-letter queue. The write that Redis can refuse at `maxmemory` comes first.
--
-- KEYS[1] queue
-- KEYS[2] dead-letter queue
-- ARGV[1] worker
-- ARGV[2] job id
-- ARGV[3] result
-- ARGV[4] how long the result is kept, in ms (0: without a limit, '': no result)
-- ARGV[5] maximum number of dead letters, 0 for no bound
-- ARGV[6..] names and values of the dead letter's fields
-- Returns -1 if the worker no longer owns the job, else the number of oldest dead letters removed
-- to keep the bound (0 if none).

-- #include keys
-- #include bounded_add

local queue, dlq = KEYS[1], KEYS[2]
local worker, id, result, result_ttl_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local max_entries = tonumber(ARGV[5])

if redis.call('GET', in_progress_key(queue, id)) ~= worker then return -1 end
local dropped = bounded_add(dlq, max_entries, 6)
if result_ttl_ms == '0' then
  redis.call('SET', result_key(queue, id), result)
elseif result_ttl_ms ~= '' then
  redis.call('SET', result_key(queue, id), result, 'PX', result_ttl_ms)
end
redis.call('ZREM', queue, id)
redis.call('ZREM', abort_key(queue), id)
redis.call('DEL', job_key(queue, id), retry_key(queue, id), in_progress_key(queue, id))
return dropped
