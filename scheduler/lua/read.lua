-- Reads results of a job in the order in which they were committed.
--
-- ARGV[1]  job
-- ARGV[2]  position of the last one that the reader has, 0 for none
-- ARGV[3]  most results
-- ARGV[4]  bytes after which no further one is read
--
-- Returns {position, serialized result} or {position, serialized status, task, item id} for each, which may be none.

local name, position = key('job', ARGV[1]), tonumber(ARGV[2])
local found, bytes = {}, 0
while #found < tonumber(ARGV[3]) and bytes < tonumber(ARGV[4]) do
  position = position + 1
  local entry = redis.call('XRANGE', name .. ':results', position .. '-0', '+', 'COUNT', 1)[1]
  if not entry then
    break
  end
  local field, data, _, place = unpack(entry[2])
  if field == 'r' then
    found[#found + 1] = {position, data}
  else
    local task, index = unpack(split(place, ':'))
    found[#found + 1] = {position, data, tonumber(task), redis.call('LINDEX', name .. ':ids', index) or ''}
  end
  bytes = bytes + #data
end
return found
