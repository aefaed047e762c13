-- Stands before every other script: names of keys, time, and the steps that several scripts share.
--
-- KEYS[1]  the hash tag of all keys; the scripts make every other name from it (keys.py lists them), which a Redis
--          Cluster allows because all of them stand in its slot.
--
-- Time is Redis's own, so that the clocks of the scheduler's replicas do not matter.

-- Values of zoofleet.v1.Job.State.
local QUEUED, RUNNING, SUCCEEDED, CANCELLED = 1, 2, 3, 5
-- From so many lost workers on, an item runs with no other item beside it.
local QUARANTINE_ATTEMPTS = 2
-- Scores of entries order by priority first: -priority * PRIORITY_STEP + 2 * sequence, exact in a double.
local PRIORITY_STEP = 2 ^ 44

local root = KEYS[1]

local function key(...)
  return root .. ':' .. table.concat({...}, ':')
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function tell(message)
  redis.call('PUBLISH', key('events'), message)
end

local function split(text, separator)
  local fields = {}
  for field in string.gmatch(text, '[^' .. separator .. ']+') do
    fields[#fields + 1] = field
  end
  return fields
end

-- Stores a result unless there is one: the one place that makes results exactly-once. Returns whether it was stored.
local function record(job, tasks, task, index, ...)
  if redis.call('SETBIT', key('job', job, 'done'), index * tasks + task, 1) == 1 then
    return false
  end
  local results = key('job', job, 'results')
  redis.call('XADD', results, (redis.call('XLEN', results) + 1) .. '-0', ...)
  return true
end

local function record_status(job, tasks, task, index, status)
  return record(job, tasks, task, index, 's', status, 'p', task .. ':' .. index)
end

-- Item indices of a run that have no result yet, at most `limit` of them, and the index after the last one looked at.
local function pending(job, tasks, task, first, count, limit)
  local done, found, index = key('job', job, 'done'), {}, first
  while index < first + count and #found < limit do
    if redis.call('GETBIT', done, index * tasks + task) == 0 then
      found[#found + 1] = index
    end
    index = index + 1
  end
  return found, index
end

-- Puts a run of items up for leasing.
local function enqueue(job, tenant, score, task, first, count, attempts)
  local entry = table.concat({job, task, first, count, attempts}, ':')
  redis.call('SADD', key('job', job, 'entries'), entry)
  if attempts >= QUARANTINE_ATTEMPTS then
    redis.call('ZADD', key('quarantine'), score, entry)
    return
  end
  local lane = key('lane', tenant)
  if redis.call('EXISTS', lane) == 0 then
    redis.call('RPUSH', key('tenants'), tenant)
  end
  redis.call('ZADD', lane, score, entry)
end

local function dequeue(job, tenant, entry)
  local lane = key('lane', tenant)
  redis.call('SREM', key('job', job, 'entries'), entry)
  redis.call('ZREM', key('quarantine'), entry)
  if redis.call('ZREM', lane, entry) == 1 and redis.call('EXISTS', lane) == 0 then
    redis.call('LREM', key('tenants'), 0, tenant)
    redis.call('HDEL', key('deficits'), tenant)
    redis.call('HDEL', key('skips'), tenant)
  end
end

local function drop_lease(job, token)
  redis.call('DEL', key('lease', token))
  redis.call('ZREM', key('leases'), token)
  redis.call('SREM', key('job', job, 'leases'), token)
end

-- Ends a job: its work and items go at once, the rest expires.
local function finish(job, state)
  local name = key('job', job)
  local tenant, request, ttl, bytes = unpack(redis.call('HMGET', name, 'tenant', 'request', 'ttl', 'bytes'))
  for _, entry in ipairs(redis.call('SMEMBERS', name .. ':entries')) do
    dequeue(job, tenant, entry)
  end
  for _, token in ipairs(redis.call('SMEMBERS', name .. ':leases')) do
    drop_lease(job, token)
  end
  local now = now_ms()
  local expire = now + ttl
  redis.call('HSET', name, 'state', state, 'end', now, 'expire', expire)
  redis.call('DECRBY', key('queued_bytes'), bytes)
  redis.call('UNLINK', name .. ':items')
  redis.call('SREM', key('tenant', tenant, 'active'), job)
  redis.call('ZADD', key('endings'), expire, table.concat({job, tenant, request}, ':'))
  for _, ending in ipairs({name, name .. ':ids', name .. ':done', name .. ':results', key('request', request)}) do
    redis.call('PEXPIREAT', ending, expire)
  end
end

-- Counts results that were just stored, and ends the job with the last one.
local function count_results(job, stored, failed)
  local name = key('job', job)
  local committed = redis.call('HINCRBY', name, 'committed', stored)
  redis.call('HINCRBY', name, 'errors', failed)
  if committed == tonumber(redis.call('HGET', name, 'results')) then
    finish(job, SUCCEEDED)
  end
  tell('job ' .. job)
end

-- Removes all that is left of a finished job.
local function forget(job, tenant, request)
  local name = key('job', job)
  redis.call('UNLINK', name, name .. ':ids', name .. ':done', name .. ':results', key('request', request))
  redis.call('ZREM', key('jobs'), job)
  redis.call('ZREM', key('tenant', tenant, 'jobs'), job)
  redis.call('ZREM', key('endings'), table.concat({job, tenant, request}, ':'))
  tell('job ' .. job)
end

-- Removes what an upload has stored so far.
local function discard(job)
  local name = key('job', job)
  redis.call('UNLINK', name .. ':items', name .. ':ids', name .. ':seen', name .. ':done', name .. ':results')
  redis.call('DECRBY', key('queued_bytes'), redis.call('HGET', key('uploads', 'bytes'), job) or 0)
  redis.call('HDEL', key('uploads', 'bytes'), job)
  redis.call('ZREM', key('uploads'), job)
end

-- Puts what a lease has left back up for leasing. Where the attempt counts, each item goes on alone, so that one that
-- kills workers does not take its neighbours with it, and ends with `status` when it has had `max_attempts`.
-- Returns whether there was such a lease.
local function hand_back(token, counts, max_attempts, status)
  local lease = redis.call('HMGET', key('lease', token), 'job', 'task', 'start', 'count', 'attempts')
  local job = lease[1]
  if not job then
    return false
  end
  local task, first, count, attempts = tonumber(lease[2]), tonumber(lease[3]), tonumber(lease[4]), tonumber(lease[5])
  local tenant, tasks, score = unpack(redis.call('HMGET', key('job', job), 'tenant', 'tasks', 'score'))
  drop_lease(job, token)
  -- Before the rest of its job, where it came from.
  score = string.format('%.0f', score - 1)
  if not counts then
    enqueue(job, tenant, score, task, first, count, attempts)
    tell('work')
    return true
  end
  local failed = 0
  for _, index in ipairs((pending(job, tonumber(tasks), task, first, count, count))) do
    if attempts + 1 < max_attempts then
      enqueue(job, tenant, score, task, index, 1, attempts + 1)
    elseif record_status(job, tonumber(tasks), task, index, status) then
      failed = failed + 1
      redis.call('LPUSH', key('dead_letters'), table.concat({job, task, index}, ':'))
      redis.call('LTRIM', key('dead_letters'), 0, 9999)
    end
  end
  if failed > 0 then
    count_results(job, failed, failed)
  end
  tell('work')
  return true
end

