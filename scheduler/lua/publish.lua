-- Makes an upload a job, whole or not at all.
--
-- ARGV[1]  job
-- ARGV[2]  tenant
-- ARGV[3]  priority
-- ARGV[4]  milliseconds to keep it for once finished
-- ARGV[5]  request id, or ''
-- ARGV[6]  digest of spec and items
-- ARGV[7]  most unfinished jobs of a tenant
-- ARGV[8]  serialized spec
-- ARGV[9.. in twos]  of each task: model; serialized task
--
-- Returns {OK, job}; {EXISTS, job} and {CONFLICT, job}: the request id has made that job, with the same or another
-- digest, and the upload is dropped; GONE: the upload has expired; JOBS: over that limit.

local job, tenant, request, digest = ARGV[1], ARGV[2], ARGV[5], ARGV[6]
local name = key('job', job)

if request ~= '' then
  local made, made_digest = unpack(redis.call('HMGET', key('request', request), 'job', 'digest'))
  if made then
    discard(job)
    return {made_digest == digest and 'EXISTS' or 'CONFLICT', made}
  end
end
if not redis.call('ZSCORE', key('uploads'), job) then
  return {'GONE'}
end
if redis.call('SCARD', key('tenant', tenant, 'active')) >= tonumber(ARGV[7]) then
  return {'JOBS'}
end

local sequence = redis.call('INCR', key('sequence'))
local score = string.format('%.0f', -tonumber(ARGV[3]) * PRIORITY_STEP + 2 * sequence)
local items, tasks = redis.call('LLEN', name .. ':ids'), (#ARGV - 8) / 2
redis.call('HSET', name, 'spec', ARGV[8], 'tenant', tenant, 'priority', ARGV[3], 'ttl', ARGV[4], 'state', QUEUED,
  'items', items, 'tasks', tasks, 'results', items * tasks, 'committed', 0, 'errors', 0, 'score', score,
  'bytes', redis.call('HGET', key('uploads', 'bytes'), job), 'create', now_ms(), 'request', request)
redis.call('DEL', name .. ':seen')
for _, part in ipairs({':items', ':ids', ':done', ':results'}) do
  redis.call('PERSIST', name .. part)
end
redis.call('ZREM', key('uploads'), job)
redis.call('HDEL', key('uploads', 'bytes'), job)
redis.call('ZADD', key('jobs'), sequence, job)
redis.call('ZADD', key('tenant', tenant, 'jobs'), sequence, job)
redis.call('SADD', key('tenant', tenant, 'active'), job)
if request ~= '' then
  redis.call('HSET', key('request', request), 'job', job, 'digest', digest)
end
for task = 0, tasks - 1 do
  redis.call('HSET', name, 'model:' .. task, ARGV[9 + 2 * task], 'task:' .. task, ARGV[10 + 2 * task])
  enqueue(job, tenant, score, task, 0, items, 0)
end
-- Items over the size limit have their results already; where all are, this ends the job.
local stored = redis.call('XLEN', name .. ':results')
count_results(job, stored, stored)
tell('work')
return {'OK', job}
