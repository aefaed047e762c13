-- Reads the fleet, and takes workers out of the index that were given up.
--
-- Returns {worker, {field, value, ...}} for each worker.

local fleet = {}
for _, worker in ipairs(redis.call('SMEMBERS', key('workers'))) do
  local fields = redis.call('HGETALL', key('worker', worker))
  if #fields == 0 then
    redis.call('SREM', key('workers'), worker)
  else
    fleet[#fleet + 1] = {worker, fields}
  end
end
return fleet
