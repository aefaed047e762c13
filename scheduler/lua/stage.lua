-- Stores a run of items of a job that is being uploaded.
--
-- ARGV[1]  job
-- ARGV[2]  index of the first of these items
-- ARGV[3]  number of the job's tasks
-- ARGV[4]  most items of a job
-- ARGV[5]  most bytes of items over all jobs
-- ARGV[6]  milliseconds until the upload expires unless it goes on
-- ARGV[7.. in threes]  item id; serialized item without its id; '' or the serialized status that stands for its results
--
-- Returns OK; GONE: the upload has expired; ITEMS, BYTES: over that limit; {DUPLICATE, item id}. What is stored stays
-- until discard.lua, publish.lua or its expiry.

local job, first, tasks, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[6])
local name = key('job', job)

if first > 0 and not redis.call('ZSCORE', key('uploads'), job) then
  return {'GONE'}
end
if first + (#ARGV - 6) / 3 > tonumber(ARGV[4]) then
  return {'ITEMS'}
end
local bytes = 0
for place = 7, #ARGV, 3 do
  bytes = bytes + #ARGV[place] + #ARGV[place + 1]
end
if tonumber(redis.call('GET', key('queued_bytes')) or 0) + bytes > tonumber(ARGV[5]) then
  return {'BYTES'}
end

redis.call('ZADD', key('uploads'), now_ms() + ttl, job)
redis.call('HINCRBY', key('uploads', 'bytes'), job, bytes)
redis.call('INCRBY', key('queued_bytes'), bytes)
local index = first
for place = 7, #ARGV, 3 do
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
  redis.call('PEXPIRE', name .. part, ttl)
end
return {'OK'}
