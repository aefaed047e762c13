-- Deletes a finished job.
--
-- ARGV[1]  job
--
-- Returns OK; MISSING: no such job; UNFINISHED.

local name = key('job', ARGV[1])
local tenant, bytes, request = unpack(redis.call('HMGET', name, 'tenant', 'result_bytes', 'request'))
if not tenant then
  return 'MISSING'
end
if is_active(ARGV[1]) then
  return 'UNFINISHED'
end
forget(ARGV[1], tenant, bytes, request)
return 'OK'
