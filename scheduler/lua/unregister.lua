-- Takes a worker out of the fleet.
--
-- ARGV[1]  worker

redis.call('DEL', key('worker', ARGV[1]))
redis.call('SREM', key('workers'), ARGV[1])
tell('worker ' .. ARGV[1])
return 1
