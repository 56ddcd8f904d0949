-- Ends a job as a dead letter; one step, so that the job is always either in its queue or in the
-- dead-letter queue. The write that Redis can refuse at `maxmemory` comes first.
--
-- KEYS[1] queue
-- KEYS[2] dead-letter queue
-- KEYS[3] key of the answer to the end of this claim
-- ARGV[1] job id
-- ARGV[2] owner
-- ARGV[3] how long the answer is remembered, in ms
-- ARGV[4] result
-- ARGV[5] how long the result is kept, in ms (0: without a limit, '': no result)
-- ARGV[6] maximum number of dead letters, 0 for no bound
-- ARGV[7..] names and values of the dead letter's fields
-- Returns -1 if the job is held no longer, else the number of oldest dead letters removed to keep
-- the bound (0 if none); when this was sent before, what it returned then.

-- #include answer
-- #include bounded_add
-- #include keys
-- #include owned

local queue, dlq, answer_key = KEYS[1], KEYS[2], KEYS[3]
local id, owner, answer_ttl_ms = ARGV[1], ARGV[2], ARGV[3]
local result, result_ttl_ms, max_entries = ARGV[4], ARGV[5], tonumber(ARGV[6])

if not owned(queue, id, owner) then return tonumber(recall(answer_key, '1')) or -1 end
local dropped = bounded_add(dlq, max_entries, 7)
if result_ttl_ms == '0' then
  redis.call('SET', result_key(queue, id), result)
elseif result_ttl_ms ~= '' then
  redis.call('SET', result_key(queue, id), result, 'PX', result_ttl_ms)
end
redis.call('ZREM', queue, id)
redis.call('ZREM', abort_key(queue), id)
redis.call('DEL', job_key(queue, id), retry_key(queue, id), in_progress_key(queue, id))
remember(answer_key, '1', dropped, answer_ttl_ms)
return dropped
