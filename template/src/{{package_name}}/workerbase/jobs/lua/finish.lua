-- Ends jobs and stores their results; one step, so that a job which another worker has claimed is
-- left to it and no crash ends a job without its result.
--
-- KEYS[1] queue
-- ARGV[1] worker
-- ARGV[2..] for each job: its id, its result, how long the result is kept in ms (0: forever, '':
--   no result), and how long its in-progress key is kept, in ms (0: not at all)
-- Returns a list of the ids that the worker no longer owns, in the order of the arguments.

-- #include keys

local queue, worker = KEYS[1], ARGV[1]

local progress_keys, done, obsolete, lost = {}, {}, {}, {}
for i = 2, #ARGV, 4 do progress_keys[#progress_keys + 1] = in_progress_key(queue, ARGV[i]) end
for n, owner in ipairs(redis.call('MGET', unpack(progress_keys))) do
  local i = n * 4 - 2
  local id, result, result_ttl_ms, progress_ttl_ms = unpack(ARGV, i, i + 3)
  local score = not owner and redis.call('ZSCORE', queue, id)
  if owner == worker or score and score % 1 > 0 then  -- its lease has ended, and nobody claimed it
    if result_ttl_ms == '0' then
      redis.call('SET', result_key(queue, id), result, 'NX')
    elseif result_ttl_ms ~= '' then
      redis.call('SET', result_key(queue, id), result, 'PX', result_ttl_ms, 'NX')
    end
    if progress_ttl_ms == '0' then
      obsolete[#obsolete + 1] = progress_keys[n]
    else
      redis.call('PEXPIRE', progress_keys[n], progress_ttl_ms)
    end
    obsolete[#obsolete + 1] = job_key(queue, id)
    obsolete[#obsolete + 1] = retry_key(queue, id)
    done[#done + 1] = id
  else
    lost[#lost + 1] = id
  end
end
if #done > 0 then
  redis.call('ZREM', queue, unpack(done))
  redis.call('ZREM', abort_key(queue), unpack(done))
  redis.call('DEL', unpack(obsolete))
end
return lost
