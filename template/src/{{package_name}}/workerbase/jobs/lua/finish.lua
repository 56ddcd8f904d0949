-- Ends jobs and stores their results; one step, so that a job which another worker has claimed is
-- left to it and no crash ends a job without its result.
--
-- KEYS[1] queue
-- KEYS[2] key of the answer to the sender's last request
-- ARGV[1] number of this request of the sender; one that is sent again keeps it
-- ARGV[2] how long the answer is remembered, in ms
-- ARGV[3..] for each job: its id, its owner, its result, how long the result is kept in ms (0:
--   forever, '': no result), and how long its in-progress key is kept, in ms (0: not at all)
-- Returns a list of the ids that are held no longer, in the order of the arguments.

-- #include answer
-- #include keys

local queue, answer_key, request, answer_ttl_ms = KEYS[1], KEYS[2], ARGV[1], ARGV[2]

local progress_keys, owned, unsure = {}, {}, false
for i = 3, #ARGV, 5 do progress_keys[#progress_keys + 1] = in_progress_key(queue, ARGV[i]) end
for n, holder in ipairs(redis.call('MGET', unpack(progress_keys))) do
  owned[n] = holder == ARGV[n * 5 - 1]
  if not owned[n] then
    local score = not holder and redis.call('ZSCORE', queue, ARGV[n * 5 - 2])
    owned[n] = score and score % 1 > 0  -- its lease has ended, and nobody claimed it
    unsure = true
  end
end

local lost, ids = unsure and recall(answer_key, request), {}
if not lost then
  local done, obsolete, left = {}, {}, {}
  for n, progress_key in ipairs(progress_keys) do
    local id, _, result, result_ttl_ms, progress_ttl_ms = unpack(ARGV, n * 5 - 2, n * 5 + 2)
    if owned[n] then
      if result_ttl_ms == '0' then
        redis.call('SET', result_key(queue, id), result, 'NX')
      elseif result_ttl_ms ~= '' then
        redis.call('SET', result_key(queue, id), result, 'PX', result_ttl_ms, 'NX')
      end
      if progress_ttl_ms == '0' then
        obsolete[#obsolete + 1] = progress_key
      else
        redis.call('SET', progress_key, '1', 'PX', progress_ttl_ms)
      end
      obsolete[#obsolete + 1] = job_key(queue, id)
      obsolete[#obsolete + 1] = retry_key(queue, id)
      done[#done + 1] = id
    else
      left[#left + 1] = n
    end
  end
  if #done > 0 then
    redis.call('ZREM', queue, unpack(done))
    redis.call('ZREM', abort_key(queue), unpack(done))
    redis.call('DEL', unpack(obsolete))
  end
  lost = table.concat(left, ' ')
  remember(answer_key, request, lost, answer_ttl_ms)
end
for n in string.gmatch(lost, '%d+') do ids[#ids + 1] = ARGV[n * 5 - 2] end
return ids
