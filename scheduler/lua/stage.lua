-- Stores a run of items of a job that is being uploaded.
--
-- ARGV[1]  job
-- ARGV[2]  tenant
-- ARGV[3]  index of the first of these items
-- ARGV[4]  number of the job's tasks
-- ARGV[5]  most items of a job
-- ARGV[6]  most bytes of items and results of a tenant
-- ARGV[7]  most bytes of items and results over all tenants
-- ARGV[8]  milliseconds until the upload expires unless it goes on
-- ARGV[9.. in threes]  item id; serialized item without its id; '' or the serialized status that stands for its results
--
-- Returns OK; GONE: the upload has expired, or some of it is missing; ITEMS, TENANT, ALL: over that limit; {DUPLICATE,
-- item id}. What is stored stays until discard.lua, publish.lua or its expiry.

local job, tenant, first, tasks, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[8])
local name = key('job', job)

if first > 0 and not (is_uploading(job) and redis.call('LLEN', name .. ':ids') == first) then
  return {'GONE'}
end
if first + (#ARGV - 8) / 3 > tonumber(ARGV[5]) then
  return {'ITEMS'}
end
local bytes, result_bytes = 0, 0
for place = 9, #ARGV, 3 do
  bytes = bytes + #ARGV[place + 1]
  result_bytes = result_bytes + #ARGV[place] + tasks * #ARGV[place + 2]
end
local over = exceeded(tenant, bytes + result_bytes, ARGV[6], ARGV[7])
if over then
  return {over}
end

redis.call('ZADD', key('uploads'), now_ms() + ttl, job)
local held = split(redis.call('HGET', key('uploads', 'bytes'), job) or tenant .. ':0:0', ':')
redis.call('HSET', key('uploads', 'bytes'), job,
  table.concat({tenant, whole(held[2] + bytes), whole(held[3] + result_bytes)}, ':'))
count_bytes(tenant, bytes + result_bytes)
local index = first
for place = 9, #ARGV, 3 do
  if redis.call('SADD', name .. ':seen', ARGV[place]) == 0 then
    return {'DUPLICATE', ARGV[place]}
  end
  redis.call('RPUSH', name .. ':ids', ARGV[place])
  if ARGV[place + 2] == '' then
    redis.call('HSET', name .. ':items', index, ARGV[place + 1])
  else
    for task = 0, tasks - 1 do
      record_status(job, tasks, task, index, ARGV[place + 2])
    end
  end
  index = index + 1
end
for _, part in ipairs({':items', ':ids', ':seen', ':done', ':results'}) do
  redis.call('PEXPIRE', name .. part, ttl + SURPLUS)
end
return {'OK'}
