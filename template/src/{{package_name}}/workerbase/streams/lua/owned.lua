-- Checks that the caller still owns an entry, in the step of the script that includes this, so that
-- a worker which slept through its lease cannot undo what the new owner does.
--
-- Defines owned(stream, group, consumer, entry_id).
-- Returns from it true if the entry is pending for the consumer, else false; for an empty consumer,
-- true if it is pending for nobody: it was trimmed while a consumer that was removed held it.

local function owned(stream, group, consumer, entry_id)
  if consumer == '' then
    return #redis.call('XPENDING', stream, group, entry_id, entry_id, 1) == 0
  end
  return #redis.call('XPENDING', stream, group, entry_id, entry_id, 1, consumer) > 0
end
