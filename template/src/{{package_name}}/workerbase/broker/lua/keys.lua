-- Names the keys and channels that scripts build themselves, in this one place: the counterpart of
-- `broker/keys.py`. Every function takes the queue; the keys of arq's own form ignore it.
--
-- Defines job_key, result_key, in_progress_key and retry_key of (queue, id), abort_key(queue),
-- alive_key(queue), idle_key(queue), wake_channel(queue), hand_over_channel(queue, worker),
-- oldest_key(stream, group) and POSITION_TTL_MS.
-- Returns from each function the name as a string.

local function job_key(queue, id) return 'arq:job:' .. id end
local function result_key(queue, id) return 'arq:result:' .. id end
local function in_progress_key(queue, id) return 'arq:in-progress:' .. id end
local function retry_key(queue, id) return 'arq:retry:' .. id end
local function abort_key(queue) return 'arq:abort' end
local function alive_key(queue) return queue .. ':alive' end
local function idle_key(queue) return queue .. ':idle' end
local function wake_channel(queue) return queue .. ':wake' end
local function hand_over_channel(queue, worker) return queue .. ':wake:claim:' .. worker end
local function oldest_key(stream, group) return stream .. ':oldest:' .. group end
local POSITION_TTL_MS = 604800000
