-- Brings what version 0.1.0 before lanes by tenant and model has left in Redis into the present form. All schedulers of
-- that version must have stopped. Jobs keep their results; what was leased or under way runs again.
--
-- Returns how many jobs were brought over; nothing happens where there is nothing of that form.

local OLD_BYTES = key('queued_bytes')

if redis.call('EXISTS', OLD_BYTES) == 0 then
  return 0
end

local function remove(names)
  for _, name in ipairs(names) do
    redis.call('UNLINK', name)
  end
end

for _, job in ipairs(redis.call('ZRANGE', key('uploads'), 0, -1)) do
  local name = key('job', job)
  remove({name .. ':items', name .. ':ids', name .. ':seen', name .. ':done', name .. ':results'})
end
for _, tenant in ipairs(redis.call('LRANGE', key('tenants'), 0, -1)) do
  redis.call('UNLINK', key('lane', tenant))
end
for _, token in ipairs(redis.call('ZRANGE', key('leases'), 0, -1)) do
  redis.call('UNLINK', key('lease', token))
end
remove({
  OLD_BYTES, key('uploads'), key('uploads', 'bytes'), key('tenants'), key('deficits'), key('skips'), key('quarantine'),
  key('leases'),
})

for _, ending in ipairs(redis.call('ZRANGE', key('endings'), 0, -1)) do
  local job, tenant, request = unpack(split(ending, ':'))
  local expire = redis.call('ZSCORE', key('endings'), ending)
  redis.call('ZREM', key('endings'), ending)
  redis.call('ZADD', key('endings'), expire, table.concat({job, tenant, 0, request or ''}, ':'))
end

local jobs = redis.call('ZRANGE', key('jobs'), 0, -1, 'WITHSCORES')
for place = 1, #jobs, 2 do
  local job, sequence = jobs[place], jobs[place + 1]
  local name = key('job', job)
  local tenant, tasks, items, priority, bytes =
    unpack(redis.call('HMGET', name, 'tenant', 'tasks', 'items', 'priority', 'bytes'))
  if tenant then
    redis.call('HSET', name, 'result_bytes', 0)
    redis.call('UNLINK', name .. ':entries', name .. ':leases')
    if is_active(job) then
      local score = whole(sequence * JOB_STEP - priority * PRIORITY_STEP)
      redis.call('HSET', name, 'score', score)
      count_bytes(tenant, bytes)
      for task = 0, tasks - 1 do
        local left = #pending(job, tonumber(tasks), task, 0, tonumber(items), tonumber(items))
        redis.call('HSET', name, 'left:' .. task, left)
        enqueue(tenant, job, redis.call('HGET', name, 'model:' .. task), whole(score + 2 * task), task, 0, items)
      end
    end
  end
end
tell('work')
return #jobs / 2
