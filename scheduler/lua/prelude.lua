-- The beginning of every script: names of keys, time, and the steps that several scripts share.
--
-- KEYS[1]  the hash tag of all keys; the scripts make every other name from it (keys.py lists them), which a Redis
--          Cluster allows because all of them stand in its slot.
--
-- Time is Redis's own, so that the clocks of the scheduler's replicas do not matter.

-- Values of zoofleet.v1.Job.State.
local QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = 1, 2, 3, 4, 5
-- Number of lost workers from which on an item runs with no other item beside it.
local QUARANTINE_ATTEMPTS = 2
-- Names the lanes of items that must run alone, in the place of a tenant; no tenant can have this name.
local QUARANTINE = '~'
-- Scores of entries order by priority, then by job, then by task: -priority * PRIORITY_STEP + sequence * JOB_STEP + 2 *
-- task, which is exact in a double. An entry that was handed back has one less, and so goes before the rest.
local PRIORITY_STEP, JOB_STEP = 2 ^ 44, 32
-- Milliseconds after which a beat proves that a worker lives: an earlier one may have been under way when it died.
local PROOF_MS = 500
-- Milliseconds for which the ends of worker processes are remembered.
local MEMORY = 600 * 1000
-- Milliseconds for which data outlive the index entry by which a sweep unlinks them. A sweep's UNLINK frees them in the
-- background, while Redis frees what expires by itself at once, however large, and serves nobody meanwhile.
local SURPLUS = 3600 * 1000
-- Bytes of a job's bitmap that are looked at in one step.
local PAGE = 4096

local root = KEYS[1]

local function key(...)
  return root .. ':' .. table.concat({...}, ':')
end

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function now_ms()
  return math.floor(now_us() / 1000)
end

-- A whole number as text; tostring would write large ones with an exponent.
local function whole(number)
  return string.format('%.0f', number)
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

-- Bytes stored -----------------------------------------------------------------------------------------------------

-- Counts bytes of items and results, by tenant and over all tenants. Fewer are counted as 0 - bytes: Redis takes no -0.
local function count_bytes(tenant, bytes)
  if redis.call('HINCRBY', key('bytes'), tenant, bytes) == 0 then
    redis.call('HDEL', key('bytes'), tenant)
  end
  redis.call('HINCRBY', key('bytes'), '*', bytes)
end

-- Returns which limit is exceeded where `bytes` more are stored: 'TENANT', 'ALL', or nil.
local function exceeded(tenant, bytes, tenant_limit, limit)
  local held, all = unpack(redis.call('HMGET', key('bytes'), tenant, '*'))
  if tonumber(held or 0) + bytes > tonumber(tenant_limit) then
    return 'TENANT'
  end
  return tonumber(all or 0) + bytes > tonumber(limit) and 'ALL' or nil
end

-- Results ----------------------------------------------------------------------------------------------------------

-- Stores a result unless there is one: the one place that makes results exactly-once. Returns its bytes, or nil where
-- it was not stored.
local function record(job, tasks, task, index, ...)
  local done, place = key('job', job, 'done'), index * tasks + task
  if redis.call('GETBIT', done, place) == 1 then
    return nil
  end
  local results, bytes = key('job', job, 'results'), 0
  for _, field in ipairs({...}) do
    bytes = bytes + #field
  end
  -- The bit comes last: where Redis refuses the result, there is none, and the item runs again.
  redis.call('XADD', results, (redis.call('XLEN', results) + 1) .. '-0', ...)
  redis.call('SETBIT', done, place, 1)
  return bytes
end

local function record_status(job, tasks, task, index, status)
  return record(job, tasks, task, index, 's', status, 'p', task .. ':' .. index)
end

-- Returns the index after `index`, whose result is in, or a later one if all results between are in.
local function skip_done(done, tasks, task, index)
  local byte = math.floor((index * tasks + task) / 8)
  local bits = redis.call('GETRANGE', done, byte, byte + PAGE - 1)
  local open = string.find(bits, '[^\255]') or #bits + 1
  return math.max(index + 1, math.ceil(((byte + open - 1) * 8 - task) / tasks))
end

-- Returns the indices of a run's items without a result, at most `limit`, and the index after the last one looked at.
local function pending(job, tasks, task, first, count, limit)
  local done, found, index, last = key('job', job, 'done'), {}, first, first + count
  local passed = 0
  while index < last and #found < limit do
    if redis.call('GETBIT', done, index * tasks + task) == 0 then
      found[#found + 1], index, passed = index, index + 1, 0
    else
      -- Failed uploads come in runs of hundreds of thousands: those are passed over bytewise.
      passed = passed + 1
      index = passed < 8 and index + 1 or skip_done(done, tasks, task, index)
    end
  end
  return found, math.min(index, last)
end

-- Lanes and turns --------------------------------------------------------------------------------------------------

-- Begins a tenant's turn: the virtual time of fair queueing. It starts at the current one, or where the tenant's work
-- ended if that was later, and grows by the number of items that the tenant gets.
local function begin_turn(tenant)
  local turn = math.max(
    tonumber(redis.call('GET', key('virtual')) or 0), tonumber(redis.call('ZSCORE', key('rested'), tenant) or 0))
  redis.call('ZREM', key('rested'), tenant)
  redis.call('HSET', key('turns'), tenant, whole(turn))
  return turn
end

local function end_turn(tenant, turn)
  redis.call('HDEL', key('turns'), tenant)
  if redis.call('EXISTS', key('turns')) == 0 then
    redis.call('DEL', key('rested'), key('virtual')) -- nobody waits, so time may start over
  elseif turn > tonumber(redis.call('GET', key('virtual')) or 0) then
    redis.call('ZADD', key('rested'), whole(turn), tenant)
  end
end

-- Brings the indices of a lane up to date after its head may have changed.
local function note_head(tenant, model)
  local heads, head = key('heads', tenant), redis.call('ZRANGE', key('lane', tenant, model), 0, 0, 'WITHSCORES')
  if head[1] then
    redis.call('ZADD', heads, head[2], model)
  else
    redis.call('ZREM', heads, model)
  end
  if tenant == QUARANTINE then
    return
  end
  if head[1] then
    local turn = redis.call('HGET', key('turns'), tenant) or begin_turn(tenant)
    redis.call('ZADD', key('waiting', model), turn, tenant)
    redis.call('SADD', key('models'), model)
    return
  end
  redis.call('ZREM', key('waiting', model), tenant)
  if redis.call('EXISTS', key('waiting', model)) == 0 then
    redis.call('SREM', key('models'), model)
  end
  if redis.call('EXISTS', heads) == 0 then
    end_turn(tenant, tonumber(redis.call('HGET', key('turns'), tenant) or 0))
  end
end

-- Puts a run of items up for leasing in the lane of a tenant or in quarantine.
local function enqueue(lane, job, model, score, task, first, count)
  local entry = table.concat({job, task, first, count}, ':')
  redis.call('SADD', key('job', job, 'entries'), table.concat({lane, model, entry}, ' '))
  redis.call('ZADD', key('lane', lane, model), score, entry)
  note_head(lane, model)
end

local function dequeue(lane, model, entry)
  redis.call('SREM', key('job', split(entry, ':')[1], 'entries'), table.concat({lane, model, entry}, ' '))
  redis.call('ZREM', key('lane', lane, model), entry)
  note_head(lane, model)
end

-- Leases -----------------------------------------------------------------------------------------------------------

-- Returns the lease of a token, or nil where it is gone or, after a loss of data, is another one.
local function find_lease(token, job, task, start)
  local found = redis.call('HMGET', key('lease', token), 'job', 'task', 'start', 'count', 'worker', 'instance', 'sent')
  if not found[1] or found[1] ~= job or found[2] ~= task or found[3] ~= start then
    return nil
  end
  return {
    token = token, job = job, task = tonumber(task), first = tonumber(start), count = tonumber(found[4]),
    worker = found[5], instance = found[6], sent = found[7],
  }
end

local function drop_lease(job, token)
  local worker = redis.call('HGET', key('lease', token), 'worker')
  if worker then
    redis.call('HDEL', key('held', worker), token)
    if redis.call('GET', key('alone', worker)) == token then
      redis.call('DEL', key('alone', worker))
    end
  end
  redis.call('DEL', key('lease', token))
  redis.call('ZREM', key('leases'), token)
  redis.call('SREM', key('job', job, 'leases'), token)
end

-- Ends of jobs -----------------------------------------------------------------------------------------------------

local function is_active(job)
  local state = tonumber(redis.call('HGET', key('job', job), 'state') or 0)
  return state == QUEUED or state == RUNNING
end

-- Ends a job: its entries, leases and items go at once, and the rest expires.
local function finish(job, state)
  local name = key('job', job)
  local tenant, request, ttl, bytes, result_bytes, tasks =
    unpack(redis.call('HMGET', name, 'tenant', 'request', 'ttl', 'bytes', 'result_bytes', 'tasks'))
  for _, member in ipairs(redis.call('SMEMBERS', name .. ':entries')) do
    dequeue(unpack(split(member, ' ')))
  end
  for _, token in ipairs(redis.call('SMEMBERS', name .. ':leases')) do
    drop_lease(job, token)
  end
  for task = 0, tasks - 1 do
    redis.call('HDEL', key('skips'), job .. ':' .. task)
  end
  local now = now_ms()
  local expire = now + ttl
  redis.call('HSET', name, 'state', state, 'end', now, 'expire', expire)
  count_bytes(tenant, 0 - bytes)
  redis.call('UNLINK', name .. ':items', name .. ':attempts')
  redis.call('SREM', key('tenant', tenant, 'active'), job)
  redis.call('ZADD', key('endings'), expire, table.concat({job, tenant, result_bytes, request}, ':'))
  for _, ending in ipairs({name, name .. ':ids', name .. ':done', name .. ':results', key('request', request)}) do
    redis.call('PEXPIREAT', ending, expire + SURPLUS)
  end
  tell('job ' .. job)
end

-- Ends a job before it is done. Results that are not in stay out; readers see an error in their place.
local function end_early(job, state, error)
  local name = key('job', job)
  local results, committed = unpack(redis.call('HMGET', name, 'results', 'committed'))
  redis.call('HSET', name, 'committed', results, 'error', error)
  redis.call('HINCRBY', name, 'errors', results - committed)
  finish(job, state)
  tell('cancel ' .. job)
end

-- Counts results that were just stored, and ends the job with the last one.
local function count_results(job, task, stored, failed, bytes)
  local name = key('job', job)
  local committed = redis.call('HINCRBY', name, 'committed', stored)
  redis.call('HINCRBY', name, 'errors', failed)
  redis.call('HINCRBY', name, 'left:' .. task, 0 - stored)
  redis.call('HINCRBY', name, 'result_bytes', bytes)
  count_bytes(redis.call('HGET', name, 'tenant'), bytes)
  if committed == tonumber(redis.call('HGET', name, 'results')) then
    finish(job, SUCCEEDED)
  else
    tell('job ' .. job)
  end
end

-- Removes everything that is left of a finished job.
local function forget(job, tenant, result_bytes, request)
  local name = key('job', job)
  redis.call('UNLINK', name, name .. ':ids', name .. ':done', name .. ':results', key('request', request))
  redis.call('ZREM', key('jobs'), job)
  redis.call('ZREM', key('tenant', tenant, 'jobs'), job)
  redis.call('ZREM', key('endings'), table.concat({job, tenant, result_bytes, request}, ':'))
  count_bytes(tenant, 0 - result_bytes)
  tell('job ' .. job)
end

-- Uploads ----------------------------------------------------------------------------------------------------------

local function is_uploading(job)
  return tonumber(redis.call('ZSCORE', key('uploads'), job) or 0) > now_ms()
end

-- Removes what an upload has stored so far.
local function discard(job)
  local name = key('job', job)
  redis.call('UNLINK', name .. ':items', name .. ':ids', name .. ':seen', name .. ':done', name .. ':results')
  local held = redis.call('HGET', key('uploads', 'bytes'), job)
  if held then
    local tenant, bytes, result_bytes = unpack(split(held, ':'))
    count_bytes(tenant, 0 - bytes - result_bytes)
  end
  redis.call('HDEL', key('uploads', 'bytes'), job)
  redis.call('ZREM', key('uploads'), job)
end

-- Attempts ---------------------------------------------------------------------------------------------------------

-- Puts one item that has lost workers up for leasing again.
local function enqueue_alone(job, task, index, attempts)
  local tenant, model, score = unpack(redis.call('HMGET', key('job', job), 'tenant', 'model:' .. task, 'score'))
  local lane = attempts >= QUARANTINE_ATTEMPTS and QUARANTINE or tenant
  enqueue(lane, job, model, whole(score + 2 * task - 1), task, index, 1)
end

-- Gives up an item that has had all its attempts.
local function give_up(job, task, index, status)
  local tasks = tonumber(redis.call('HGET', key('job', job), 'tasks'))
  local bytes = record_status(job, tasks, task, index, status)
  if bytes then
    redis.call('LPUSH', key('dead_letters'), table.concat({job, task, index}, ':'))
    redis.call('LTRIM', key('dead_letters'), 0, 9999)
    count_results(job, task, 1, 1, bytes)
  end
end

-- Counts an attempt against one item of a lease. Where its worker's process has died the item is blamed for it, until
-- that process beats all the same (`forgive`); so its last attempt waits for a verdict before it is given up.
local function count_attempt(lease, index, why, max_attempts, status, verdict_ms)
  local place = lease.task .. ':' .. index
  local attempts = redis.call('HINCRBY', key('job', lease.job, 'attempts'), place, 1)
  if why == 'DIED' then
    local blame = key('blame', lease.instance)
    redis.call('HSET', blame, lease.job .. ':' .. place, 1, 'time', now_ms())
    redis.call('PEXPIRE', blame, MEMORY)
  end
  if attempts < max_attempts then
    enqueue_alone(lease.job, lease.task, index, attempts)
  elseif why == 'DIED' then
    local verdict = table.concat({lease.job, place, lease.instance}, ':')
    redis.call('ZADD', key('verdicts'), now_ms() + verdict_ms, verdict)
  else
    give_up(lease.job, lease.task, index, status)
  end
end

-- Puts the items of a lease that have no result up for leasing again. Where the attempt counts, each item goes on alone,
-- so that one that kills workers does not take its neighbours with it.
--
-- why           INNOCENT: it does not count; DIED: it counts if the worker's process has really died; FAULT: it counts
-- max_attempts  attempts that an item has
-- status        of an item that has had them, where `why` is FAULT
-- verdict_ms    milliseconds that a worker that has died has to prove the contrary
local function hand_back(lease, why, max_attempts, status, verdict_ms)
  drop_lease(lease.job, lease.token)
  local tenant, tasks, model, score =
    unpack(redis.call('HMGET', key('job', lease.job), 'tenant', 'tasks', 'model:' .. lease.task, 'score'))
  if not tenant then
    return
  end
  if why == 'DIED' and redis.call('HGET', key('worker', lease.worker), 'instance') == lease.instance then
    -- The worker gets no further work, from any replica, until it beats.
    redis.call('HSET', key('worker', lease.worker), 'suspect', 1)
  end
  if why ~= 'INNOCENT' then
    for _, index in ipairs((pending(lease.job, tonumber(tasks), lease.task, lease.first, lease.count, lease.count))) do
      count_attempt(lease, index, why, max_attempts, status, verdict_ms)
    end
  else
    local place = lease.task .. ':' .. lease.first
    local attempts = lease.count == 1 and redis.call('HGET', key('job', lease.job, 'attempts'), place)
    if attempts then
      enqueue_alone(lease.job, lease.task, lease.first, tonumber(attempts))
    else
      enqueue(tenant, lease.job, model, whole(score + 2 * lease.task - 1), lease.task, lease.first, lease.count)
    end
  end
  tell('work')
end

-- Takes attempts back that were counted while a worker's process was taken for dead. Called at each of its beats.
local function forgive(instance)
  local blame = key('blame', instance)
  local time = redis.call('HGET', blame, 'time')
  if not time or now_ms() - time < PROOF_MS then
    return
  end
  for _, item in ipairs(redis.call('HKEYS', blame)) do
    local job, task, index = unpack(split(item, ':'))
    if index and is_active(job) then
      local attempts = redis.call('HINCRBY', key('job', job, 'attempts'), task .. ':' .. index, -1)
      if redis.call('ZREM', key('verdicts'), item .. ':' .. instance) == 1 then
        enqueue_alone(job, task, index, attempts)
      end
    end
  end
  redis.call('DEL', blame)
  tell('work')
end
