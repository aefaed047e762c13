-- Makes an upload a job, whole or not at all.
--
-- ARGV[1]   job
-- ARGV[2]   tenant
-- ARGV[3]   priority
-- ARGV[4]   milliseconds to keep it for once finished
-- ARGV[5]   request id, or ''
-- ARGV[6]   digest of spec and items
-- ARGV[7]   most unfinished jobs of a tenant
-- ARGV[8]   serialized spec
-- ARGV[9]   items that were staged
-- ARGV[10]  those of them that have data
-- ARGV[11.. in twos]  of each task: model; serialized task
--
-- Returns {OK, job}; {EXISTS, job} and {CONFLICT, job}: the request id has made that job, with the same or another
-- digest, and the upload is dropped; GONE: the upload has expired, or some of it is missing; JOBS: over that limit.

local job, tenant, request, digest = ARGV[1], ARGV[2], ARGV[5], ARGV[6]
local name, items, tasks = key('job', job), tonumber(ARGV[9]), (#ARGV - 10) / 2

if request ~= '' then
  local made, made_digest = unpack(redis.call('HMGET', key('request', request), 'job', 'digest'))
  if made then
    discard(job)
    return {made_digest == digest and 'EXISTS' or 'CONFLICT', made}
  end
end
-- Whatever may have taken some of the upload away, a job that is acknowledged has all that was sent.
local complete = redis.call('LLEN', name .. ':ids') == items
  and redis.call('HLEN', name .. ':items') == tonumber(ARGV[10])
  and redis.call('XLEN', name .. ':results') == (items - ARGV[10]) * tasks
if not is_uploading(job) or not complete then
  discard(job)
  return {'GONE'}
end
if redis.call('SCARD', key('tenant', tenant, 'active')) >= tonumber(ARGV[7]) then
  return {'JOBS'}
end

local sequence = redis.call('INCR', key('sequence'))
local score = whole(sequence * JOB_STEP - ARGV[3] * PRIORITY_STEP)
local _, bytes, result_bytes = unpack(split(redis.call('HGET', key('uploads', 'bytes'), job), ':'))
redis.call('HSET', name, 'spec', ARGV[8], 'tenant', tenant, 'priority', ARGV[3], 'ttl', ARGV[4], 'state', QUEUED,
  'items', items, 'tasks', tasks, 'results', items * tasks, 'committed', 0, 'errors', 0, 'score', score,
  'bytes', bytes, 'result_bytes', result_bytes, 'create', now_ms(), 'request', request)
redis.call('UNLINK', name .. ':seen')
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
  local model = ARGV[11 + 2 * task]
  redis.call('HSET', name, 'model:' .. task, model, 'task:' .. task, ARGV[12 + 2 * task], 'left:' .. task, items)
  enqueue(tenant, job, model, whole(score + 2 * task), task, 0, items)
end
-- Items over the size limit have their results already; where all are, this ends the job.
local failed = items - ARGV[10]
for task = 0, tasks - 1 do
  count_results(job, task, failed, failed, 0)
end
tell('work')
return {'OK', job}
