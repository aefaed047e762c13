-- Notes a worker's heartbeat.
--
-- ARGV[1]  worker
-- ARGV[2]  instance id of its process
-- ARGV[3]  serialized WorkerStatus
-- ARGV[4]  milliseconds of silence after which it is given up
--
-- Returns 1 where an operator wants it to drain, else 0; -1 where this process is not registered.

local name = key('worker', ARGV[1])
if redis.call('HGET', name, 'instance') ~= ARGV[2] then
  return -1
end
redis.call('HSET', name, 'status', ARGV[3], 'beat', now_ms())
if redis.call('HDEL', name, 'suspect') == 1 then
  tell('work')
end
redis.call('PEXPIRE', name, ARGV[4])
forgive(ARGV[2])
tell('worker ' .. ARGV[1])
return redis.call('HEXISTS', name, 'drain')
