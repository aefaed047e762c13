-- Takes a worker out of the fleet, at its own word: what it had was answered or handed back.
--
-- ARGV[1]  worker
-- ARGV[2]  instance id of its process; where another one is registered, that one stays

redis.call('SET', key('departed', ARGV[2]), 1, 'PX', MEMORY)
local registered = redis.call('HGET', key('worker', ARGV[1]), 'instance')
if registered and registered ~= ARGV[2] then
  return 0
end
redis.call('DEL', key('worker', ARGV[1]))
redis.call('SREM', key('workers'), ARGV[1])
tell('worker ' .. ARGV[1])
return 1
