-- Leases the next chunk to a worker.
--
-- ARGV[1]   worker
-- ARGV[2]   instance id of its process
-- ARGV[3]   most items
-- ARGV[4]   most bytes of items; a larger one is leased alone
-- ARGV[5]   milliseconds that the lease lasts
-- ARGV[6]   the worker's window: most items that it holds at once, of all replicas
-- ARGV[7]   milliseconds for which it stays reserved for the quarantine without another claim
-- ARGV[8]   builders that the worker can load, separated by commas
-- ARGV[9]   models that it has loaded, separated by commas
-- ARGV[10]  models that it must not get now, separated by commas
-- ARGV[11]  serialized status that stands for the results of an item whose data are lost
--
-- Returns nothing, or, where there is work for this worker, {token, job, tenant, task, start, attempts, serialized task,
-- {item indices}, {item ids}, {serialized items without ids}}.
--
-- Of the tenants that have work for this worker the one with the earliest turn is served, and its turn grows by the
-- items. Within a tenant priority is strict, then first come, first served, except that of the same priority a model
-- that is loaded goes first, before any one entry at most MAX_SKIPS times.
--
-- Items that must run alone do so on one worker of the fleet at a time. That worker is reserved by its own claims: it gets
-- nothing else until it holds nothing, and then one such item after another.

local MAX_SKIPS = 8
-- Items by which the turn of a tenant that no worker could serve for long may stay behind that of the others.
local MAX_LAG = 1024

local worker, instance, max_items, max_bytes = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local function set_of(text)
  local members = {}
  for _, member in ipairs(split(text, ',')) do
    members[member] = true
  end
  return members
end

local builders, loaded, refused = set_of(ARGV[8]), set_of(ARGV[9]), set_of(ARGV[10])

local function runs(model)
  return builders[split(model, '@')[1]] and not refused[model]
end

-- Returns the ids of items, which are most often a run without gaps.
local function ids_of(job, indices)
  local name, first, last = key('job', job, 'ids'), indices[1], indices[#indices]
  local ids = {}
  if last - first < 2 * #indices then
    local run = redis.call('LRANGE', name, first, last)
    for place, index in ipairs(indices) do
      ids[place] = run[index - first + 1]
    end
  else
    for place, index in ipairs(indices) do
      ids[place] = redis.call('LINDEX', name, index)
    end
  end
  return ids
end

-- Returns the items of an entry to lease, and the index after them. Items whose data are lost get an error that says so.
local function cut(job, tasks, task, first, count)
  local name = key('job', job)
  local found, after = pending(job, tasks, task, first, count, max_items)
  local indices, items, bytes = {}, {}, 0
  for _, index in ipairs(found) do
    local item = redis.call('HGET', name .. ':items', index)
    if item then
      bytes = bytes + #item
      if #indices > 0 and bytes > max_bytes then
        return indices, items, index
      end
      indices[#indices + 1], items[#items + 1] = index, item
    else
      local stored = record_status(job, tasks, task, index, ARGV[11])
      if stored then
        count_results(job, task, 1, 1, stored)
      end
    end
  end
  return indices, items, after
end

-- Cuts a chunk off the front of an entry and leases it. Returns nil where nothing of the entry is left to run.
local function lease(lane, model, entry, score)
  local job, task, first, count = unpack(split(entry, ':'))
  local name = key('job', job)
  local tasks, state, tenant, task_bytes = unpack(redis.call('HMGET', name, 'tasks', 'state', 'tenant', 'task:' .. task))
  if not tasks then
    dequeue(lane, model, entry)
    return nil
  end
  local last = first + count
  local indices, items, after = cut(job, tonumber(tasks), task, tonumber(first), tonumber(count))
  if not is_active(job) then
    return nil -- its last items were lost, and the entry went with the job
  end
  if after < last then
    enqueue(lane, job, model, score, task, after, last - after)
  end
  dequeue(lane, model, entry)
  if #indices == 0 then
    return nil
  end
  local now = now_us()
  -- At least the time, so that no number is given twice, not even where Redis has lost data.
  local token = whole(math.max(tonumber(redis.call('GET', key('token')) or 0) + 1, now))
  redis.call('SET', key('token'), token)
  redis.call('HSET', key('lease', token), 'job', job, 'task', task, 'start', first, 'count', after - first,
    'worker', worker, 'instance', instance)
  redis.call('ZADD', key('leases'), math.floor(now / 1000) + tonumber(ARGV[5]), token)
  redis.call('SADD', name .. ':leases', token)
  redis.call('HSET', key('held', worker), token, #indices)
  if lane == QUARANTINE then
    redis.call('SET', key('alone', worker), token)
  end
  redis.call('HDEL', key('skips'), job .. ':' .. task)
  if tonumber(state) == QUEUED then
    redis.call('HSET', name, 'state', RUNNING, 'start', math.floor(now / 1000))
    tell('job ' .. job)
  end
  local attempts = tonumber(redis.call('HGET', name .. ':attempts', task .. ':' .. indices[1]) or 0)
  return {
    token, job, tenant, tonumber(task), tonumber(first), attempts, task_bytes, indices, ids_of(job, indices), items,
  }
end

-- Returns the first lane of a tenant, or of the quarantine, that this worker can run: its model, entry and score.
local function head_of(lane)
  for _, model in ipairs(redis.call('ZRANGE', key('heads', lane), 0, -1)) do
    if runs(model) then
      local entry, score = unpack(redis.call('ZRANGE', key('lane', lane, model), 0, 0, 'WITHSCORES'))
      return model, entry, score
    end
  end
end

-- Returns the same, but prefers, within bounds, a model that is loaded to one that is not.
local function choose(tenant)
  local model, entry, score = head_of(tenant)
  if not model or loaded[model] then
    return model, entry, score
  end
  local job, task = unpack(split(entry, ':'))
  local skips = key('skips')
  if tonumber(redis.call('HGET', skips, job .. ':' .. task) or 0) >= MAX_SKIPS then
    return model, entry, score
  end
  local heads = redis.call('ZRANGE', key('heads', tenant), 0, -1, 'WITHSCORES')
  for place = 1, #heads, 2 do
    local other, other_score = heads[place], heads[place + 1]
    local same_priority = math.floor(other_score / PRIORITY_STEP) == math.floor(score / PRIORITY_STEP)
    if same_priority and loaded[other] and runs(other) then
      redis.call('HINCRBY', skips, job .. ':' .. task, 1)
      return other, redis.call('ZRANGE', key('lane', tenant, other), 0, 0)[1], other_score
    end
  end
  return model, entry, score
end

-- Returns whether the worker is the one that runs the items that must run alone.
local function reserve()
  local holder = redis.call('GET', key('reserved'))
  if not head_of(QUARANTINE) then
    if holder == worker then
      redis.call('DEL', key('reserved'))
    end
    return false
  end
  if holder and holder ~= worker and redis.call('EXISTS', key('worker', holder)) == 1 then
    return false
  end
  redis.call('SET', key('reserved'), worker, 'PX', ARGV[7])
  return true
end

local function claim_alone()
  max_items = 1
  local model, entry, score = head_of(QUARANTINE)
  while model do
    local chunk = lease(QUARANTINE, model, entry, score)
    if chunk then
      return chunk
    end
    model, entry, score = head_of(QUARANTINE)
  end
end

-- Returns the tenant with the earliest turn of those that have work for this worker.
local function next_tenant()
  local tenant, turn
  for _, model in ipairs(redis.call('SMEMBERS', key('models'))) do
    if runs(model) then
      local first, score = unpack(redis.call('ZRANGE', key('waiting', model), 0, 0, 'WITHSCORES'))
      score = tonumber(score)
      if not turn or score < turn or (score == turn and first < tenant) then
        tenant, turn = first, score
      end
    end
  end
  return tenant, turn
end

local function take_turn(tenant, turn, items)
  local virtual = tonumber(redis.call('GET', key('virtual')) or 0)
  local start = math.max(turn, virtual - MAX_LAG)
  if start > virtual then
    redis.call('SET', key('virtual'), whole(start))
    redis.call('ZREMRANGEBYSCORE', key('rested'), '-inf', whole(start))
  end
  local models = redis.call('ZRANGE', key('heads', tenant), 0, -1)
  if #models == 0 then -- that was its last work
    end_turn(tenant, start + items)
    return
  end
  redis.call('HSET', key('turns'), tenant, whole(start + items))
  for _, model in ipairs(models) do
    redis.call('ZADD', key('waiting', model), whole(start + items), tenant)
  end
end

local function claim_from_lanes()
  local tenant, turn = next_tenant()
  while tenant do
    local model, entry, score = choose(tenant)
    local chunk = lease(tenant, model, entry, score)
    if chunk then
      take_turn(tenant, turn, #chunk[8])
      return chunk
    end
    tenant, turn = next_tenant()
  end
end

local registered, suspect, draining = unpack(redis.call('HMGET', key('worker', worker), 'instance', 'suspect', 'drain'))
if registered ~= instance or suspect or draining then
  return nil
end
local held = 0
for _, items in ipairs(redis.call('HVALS', key('held', worker))) do
  held = held + tonumber(items)
end
if reserve() then
  return held == 0 and claim_alone() or nil
end
local alone = redis.call('GET', key('alone', worker))
if alone and redis.call('EXISTS', key('lease', alone)) == 1 then
  return nil
end
-- Nothing is claimed until a good part of a chunk fits, so that chunks do not crumble.
local window = tonumber(ARGV[6])
if window - held < math.min(max_items, math.floor((window + 1) / 2)) then
  return nil
end
max_items = math.min(max_items, window - held)
return claim_from_lanes()
