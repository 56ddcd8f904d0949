-- Reads a row of an XINFO reply, which has names and values in turn, in the step of the script that
-- includes this. Reads and writes nothing in Redis.
--
-- Defines info_of(row).
-- Returns from it a table of the values by name.

local function info_of(row)
  local info = {}
  for i = 1, #row, 2 do info[row[i]] = row[i + 1] end
  return info
end
