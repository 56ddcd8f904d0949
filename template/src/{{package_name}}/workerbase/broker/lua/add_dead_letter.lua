-- Adds a dead letter to a dead-letter queue; one step, so that the queue never exceeds its bound.
--
-- KEYS[1] dead-letter queue
-- ARGV[1] bound of the dead-letter queue; 0 for none
-- ARGV[2...] names and values of the dead letter in turn
-- Returns the number of oldest dead letters removed to keep the bound.

-- #include bounded_add

return bounded_add(KEYS[1], tonumber(ARGV[1]), 2)
