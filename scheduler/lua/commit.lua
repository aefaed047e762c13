-- Commits results of a leased chunk, all of them or the first that are ready. The lease ends with its last result, the
-- job with its own.
--
-- ARGV[1..4]  token, job, task, index of the lease's first item
-- ARGV[5]     most bytes of items and results of a tenant
-- ARGV[6]     most bytes of items and results over all tenants
-- ARGV[7.. in threes]  item index; 1 where the result is an error, else 0; serialized result
--
-- Returns OK; GONE: there is no such lease, and nothing was committed; TENANT, ALL: committed, and the job goes on, but
-- that limit is exceeded.

local lease = find_lease(ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if not lease then
  return 'GONE'
end
local job, task, first, count = lease.job, lease.task, lease.first, lease.count
local tasks, tenant = unpack(redis.call('HMGET', key('job', job), 'tasks', 'tenant'))
if not tasks then
  drop_lease(job, lease.token)
  return 'GONE'
end
local stored, failed, bytes = 0, 0, 0
for place = 7, #ARGV, 3 do
  local index = tonumber(ARGV[place])
  if index >= first and index < first + count then
    local size = record(job, tonumber(tasks), task, index, 'r', ARGV[place + 2])
    if size then
      stored, failed, bytes = stored + 1, failed + tonumber(ARGV[place + 1]), bytes + size
    end
  end
end
if #pending(job, tonumber(tasks), task, first, count, 1) == 0 then
  drop_lease(job, lease.token)
else
  redis.call('HINCRBY', key('held', lease.worker), lease.token, 0 - stored)
end
count_results(job, task, stored, failed, bytes)
return is_active(job) and exceeded(tenant, 0, ARGV[5], ARGV[6]) or 'OK'
