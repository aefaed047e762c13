-- Leases the next chunk to a worker.
--
-- ARGV[1]  worker
-- ARGV[2]  most items
-- ARGV[3]  most bytes of items; a larger one is leased alone
-- ARGV[4]  milliseconds that the lease lasts
-- ARGV[5]  items that a tenant may take before the next one's turn
-- ARGV[6]  'lanes', or 'quarantine' to lease one item that must run alone
-- ARGV[7]  builders that the worker can load, separated by commas
-- ARGV[8]  models that it has loaded, separated by commas
-- ARGV[9]  models that it must not get now, separated by commas
--
-- Returns {number of entries in quarantine}, followed, where there is work for this worker, by {token, job, task,
-- attempts, serialized task, {item indices}, {item ids}, {serialized items without ids}}.
--
-- Tenants take turns by deficit round robin, weighted by items. Within a tenant priority is strict, then first come,
-- first served, except that among the first WINDOW entries of the same priority one whose model is loaded goes first,
-- at most MAX_SKIPS times in a row.

local WINDOW, MAX_SKIPS = 8, 8
-- Entries looked at for one that this worker can run; whatever stands behind waits for another worker or its turn.
local REACH = 256

local worker, max_items, max_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local function set_of(text)
  local members = {}
  for _, member in ipairs(split(text, ',')) do
    members[member] = true
  end
  return members
end

local builders, loaded, refused = set_of(ARGV[7]), set_of(ARGV[8]), set_of(ARGV[9])

local function parse(entry)
  local job, task, first, count, attempts = unpack(split(entry, ':'))
  local model = redis.call('HGET', key('job', job), 'model:' .. task)
  return {
    name = entry, job = job, task = tonumber(task), first = tonumber(first), count = tonumber(count),
    attempts = tonumber(attempts), runs = builders[split(model, '@')[1]] and not refused[model], loaded = loaded[model],
  }
end

-- The entry of a lane to cut the next chunk from, nil where this worker can run none of them.
local function choose(lane, tenant)
  local entries = redis.call('ZRANGE', lane, 0, REACH - 1, 'WITHSCORES')
  local head, head_priority, head_place
  for place = 1, #entries, 2 do
    local entry, priority = parse(entries[place]), math.floor(entries[place + 1] / PRIORITY_STEP)
    if head and (priority ~= head_priority or place - head_place >= 2 * WINDOW) then
      break
    end
    if entry.runs and entry.loaded then
      if head then
        redis.call('HINCRBY', key('skips'), tenant, 1)
      else
        redis.call('HDEL', key('skips'), tenant)
      end
      return entry
    end
    if entry.runs and not head then
      head, head_priority, head_place = entry, priority, place
      if tonumber(redis.call('HGET', key('skips'), tenant) or 0) >= MAX_SKIPS then
        break
      end
    end
  end
  if head then
    redis.call('HDEL', key('skips'), tenant)
  end
  return head
end

-- Cuts a chunk off the front of an entry and leases it. Returns nil where all of the entry's items have results.
local function lease(entry, tenant, score)
  local job, name = entry.job, key('job', entry.job)
  local tasks, state, task_bytes = unpack(redis.call('HMGET', name, 'tasks', 'state', 'task:' .. entry.task))
  local found = pending(job, tonumber(tasks), entry.task, entry.first, entry.count, max_items)
  local indices, ids, items, bytes = {}, {}, {}, 0
  for _, index in ipairs(found) do
    bytes = bytes + redis.call('HSTRLEN', name .. ':items', index)
    if #indices > 0 and bytes > max_bytes then
      break
    end
    indices[#indices + 1] = index
  end
  local last = entry.first + entry.count
  local after = #indices > 0 and indices[#indices] + 1 or last
  -- The rest first: a lane that were empty in between would lose its turn.
  if after < last then
    enqueue(job, tenant, score, entry.task, after, last - after, entry.attempts)
  end
  dequeue(job, tenant, entry.name)
  if #indices == 0 then
    return nil
  end
  items = redis.call('HMGET', name .. ':items', unpack(indices))
  for place, index in ipairs(indices) do
    ids[place] = redis.call('LINDEX', name .. ':ids', index)
  end
  local token, now = redis.call('INCR', key('token')), now_ms()
  redis.call('HSET', key('lease', token), 'job', job, 'task', entry.task, 'start', entry.first,
    'count', after - entry.first, 'attempts', entry.attempts, 'worker', worker)
  redis.call('ZADD', key('leases'), now + tonumber(ARGV[4]), token)
  redis.call('SADD', name .. ':leases', token)
  if tonumber(state) == QUEUED then
    redis.call('HSET', name, 'state', RUNNING, 'start', now)
    tell('job ' .. job)
  end
  return {token, job, entry.task, entry.attempts, task_bytes, indices, ids, items}
end

local function claim_from_quarantine()
  max_items = 1
  for _, name in ipairs(redis.call('ZRANGE', key('quarantine'), 0, REACH - 1)) do
    local entry = parse(name)
    if entry.runs then
      local chunk = lease(entry, redis.call('HGET', key('job', entry.job), 'tenant'), 0)
      if chunk then
        return chunk
      end
    end
  end
end

local function claim_from_lanes()
  for _, tenant in ipairs(redis.call('LRANGE', key('tenants'), 0, -1)) do
    local lane = key('lane', tenant)
    local entry = choose(lane, tenant)
    while entry do
      local chunk = lease(entry, tenant, redis.call('ZSCORE', lane, entry.name))
      if chunk then
        if redis.call('EXISTS', lane) == 1 then
          local deficit = tonumber(redis.call('HGET', key('deficits'), tenant) or ARGV[5]) - #chunk[6]
          if deficit <= 0 then
            deficit = deficit + tonumber(ARGV[5])
            redis.call('LREM', key('tenants'), 1, tenant)
            redis.call('RPUSH', key('tenants'), tenant)
          end
          redis.call('HSET', key('deficits'), tenant, deficit)
        end
        return chunk
      end
      entry = choose(lane, tenant)
    end
  end
end

local chunk
if ARGV[6] == 'quarantine' then
  chunk = claim_from_quarantine()
else
  chunk = claim_from_lanes()
end
return {redis.call('ZCARD', key('quarantine')), chunk}
