-- Marks a worker as draining.
--
-- ARGV[1]  worker
--
-- Returns 1, or 0 where it is not registered.

local name = key('worker', ARGV[1])
if redis.call('EXISTS', name) == 0 then
  return 0
end
redis.call('HSET', name, 'drain', 1)
tell('worker ' .. ARGV[1])
return 1
