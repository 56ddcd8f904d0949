-- Compares and increments entry ids as text: a number in Lua is exact only up to 2^53, and the ids
-- that publishers choose may be greater. Reads and writes nothing, in the step of the script that
-- includes this.
--
-- Defines is_before(a, b) and next_id(id), for ids as Redis returns them: '1700000000000-0'.
-- Returns from is_before whether a comes before b, from next_id the smallest id behind id.

local function split(id) return string.match(id, '^(%d+)-(%d+)$') end

local function is_less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local function is_before(a, b)
  local a_ms, a_seq = split(a)
  local b_ms, b_seq = split(b)
  if a_ms ~= b_ms then return is_less(a_ms, b_ms) end
  return is_less(a_seq, b_seq)
end

local function increment(number)
  local head, nines = string.match(number, '^(.-)(9*)$')
  if head == '' then head = '0' end
  local last = tonumber(string.sub(head, -1)) + 1
  return string.sub(head, 1, -2) .. last .. string.rep('0', #nines)
end

local function next_id(id)
  local ms, seq = split(id)
  if seq == '18446744073709551615' then return increment(ms) .. '-0' end
  return ms .. '-' .. increment(seq)
end
