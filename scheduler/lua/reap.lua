-- Takes back expired leases, ends items that have lost their last worker beyond doubt, and drops expired uploads and
-- what is left of expired jobs; LIMIT of each at a time.
--
-- ARGV[1]  attempts that an item has
-- ARGV[2]  serialized status that becomes the result of an item that has had them
-- ARGV[3]  milliseconds that a worker that has died has to prove the contrary
--
-- Returns {leases, items given up, uploads, jobs, 1 where there is more to do}.

local LIMIT = 100

local function due(name)
  return redis.call('ZRANGEBYSCORE', key(name), '-inf', now_ms(), 'LIMIT', 0, LIMIT)
end

-- Why a lease was not renewed. A scheduler that was killed or paused, or that never got the claim's answer, leaves
-- workers behind that live, that have left in good order, or that never saw the items.
local function why(lease)
  if not lease.sent or redis.call('EXISTS', key('departed', lease.instance)) == 1 then
    return 'INNOCENT'
  end
  return redis.call('HGET', key('worker', lease.worker), 'instance') == lease.instance and 'INNOCENT' or 'DIED'
end

local leases, verdicts, uploads, endings = due('leases'), due('verdicts'), due('uploads'), due('endings')
for _, token in ipairs(leases) do
  local job, task, start = unpack(redis.call('HMGET', key('lease', token), 'job', 'task', 'start'))
  local lease = job and find_lease(token, job, task, start)
  if lease then
    hand_back(lease, why(lease), tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]))
  else
    redis.call('ZREM', key('leases'), token)
  end
end
for _, verdict in ipairs(verdicts) do
  redis.call('ZREM', key('verdicts'), verdict)
  local job, task, index = unpack(split(verdict, ':'))
  if is_active(job) then
    give_up(job, tonumber(task), tonumber(index), ARGV[2])
  end
end
for _, job in ipairs(uploads) do
  discard(job)
end
for _, ending in ipairs(endings) do
  local job, tenant, bytes, request = unpack(split(ending, ':'))
  forget(job, tenant, bytes, request or '')
end
local most = math.max(#leases, #verdicts, #uploads, #endings)
return {#leases, #verdicts, #uploads, #endings, most == LIMIT and 1 or 0}
