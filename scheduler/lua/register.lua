-- Registers a worker, or registers it again.
--
-- ARGV[1]  worker
-- ARGV[2]  instance id of its process
-- ARGV[3]  serialized Worker
-- ARGV[4]  serialized WorkerStatus
-- ARGV[5]  milliseconds of silence after which it is given up
--
-- Returns 1, or 0 where another process was registered under that name, which it takes the place of.

local name, now = key('worker', ARGV[1]), now_ms()
local before = redis.call('HGET', name, 'instance')
if before and before ~= ARGV[2] then
  redis.call('DEL', name)
end
redis.call('HSET', name, 'instance', ARGV[2], 'info', ARGV[3], 'status', ARGV[4], 'beat', now)
redis.call('HSETNX', name, 'register', now)
redis.call('HDEL', name, 'suspect')
redis.call('PEXPIRE', name, ARGV[5])
redis.call('SADD', key('workers'), ARGV[1])
forgive(ARGV[2])
tell('worker ' .. ARGV[1])
return (before and before ~= ARGV[2]) and 0 or 1
