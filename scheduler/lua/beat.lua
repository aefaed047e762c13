-- Notes a worker's heartbeat.
--
-- ARGV[1]  worker
-- ARGV[2]  serialized WorkerStatus
-- ARGV[3]  milliseconds of silence after which it is given up
--
-- Returns 1 where an operator wants it to drain, else 0; -1 where it is not registered.

local name = key('worker', ARGV[1])
if redis.call('EXISTS', name) == 0 then
  return -1
end
redis.call('HSET', name, 'status', ARGV[2], 'beat', now_ms())
redis.call('PEXPIRE', name, ARGV[3])
tell('worker ' .. ARGV[1])
return redis.call('HEXISTS', name, 'drain')
