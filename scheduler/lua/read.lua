-- Reads results of a job in the order in which they were committed.
--
-- ARGV[1]  job
-- ARGV[2]  position of the last one that the reader has, 0 for none
-- ARGV[3]  most results
-- ARGV[4]  bytes after which no further one is read
--
-- Returns stream entries, which may be none.

local name, position = key('job', ARGV[1], 'results'), tonumber(ARGV[2])
local entries, bytes = {}, 0
while #entries < tonumber(ARGV[3]) and bytes < tonumber(ARGV[4]) do
  position = position + 1
  local entry = redis.call('XRANGE', name, position .. '-0', '+', 'COUNT', 1)[1]
  if not entry then
    break
  end
  entries[#entries + 1] = entry
  bytes = bytes + #entry[2][2]
end
return entries
