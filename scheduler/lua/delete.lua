-- Deletes a finished job.
--
-- ARGV[1]  job
--
-- Returns OK; MISSING: no such job; UNFINISHED.

local state, tenant, request = unpack(redis.call('HMGET', key('job', ARGV[1]), 'state', 'tenant', 'request'))
if not state then
  return 'MISSING'
end
if tonumber(state) == QUEUED or tonumber(state) == RUNNING then
  return 'UNFINISHED'
end
forget(ARGV[1], tenant, request)
return 'OK'
