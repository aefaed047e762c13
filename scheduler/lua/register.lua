-- Registers a worker, or registers it again.
--
-- ARGV[1]  worker
-- ARGV[2]  serialized Worker
-- ARGV[3]  serialized WorkerStatus
-- ARGV[4]  milliseconds of silence after which it is given up

local name, now = key('worker', ARGV[1]), now_ms()
redis.call('HSET', name, 'info', ARGV[2], 'status', ARGV[3], 'beat', now)
redis.call('HSETNX', name, 'register', now)
redis.call('PEXPIRE', name, ARGV[4])
redis.call('SADD', key('workers'), ARGV[1])
tell('worker ' .. ARGV[1])
return 1
