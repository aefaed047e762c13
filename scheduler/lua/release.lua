-- Hands a leased chunk back.
--
-- ARGV[1..4]  token, job, task, index of the lease's first item
-- ARGV[5]     INNOCENT, DIED or FAULT, as hand_back takes it
-- ARGV[6]     attempts that an item has
-- ARGV[7]     serialized status that becomes the result of an item that has had them
-- ARGV[8]     milliseconds that a worker that has died has to prove the contrary
--
-- Returns 1, or 0 where the lease is gone.

local lease = find_lease(ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if not lease then
  return 0
end
hand_back(lease, ARGV[5], tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8]))
return 1
