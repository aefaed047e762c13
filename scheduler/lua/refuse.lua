-- Notes that a worker could not load a model, and ends the jobs that have waited for it in vain.
--
-- ARGV[1]   model
-- ARGV[2]   worker
-- ARGV[3]   job whose items it refused
-- ARGV[4]   serialized status: why
-- ARGV[5]   milliseconds that a job waits for the model
-- ARGV[6]   milliseconds without a refusal after which the next one is the first again
-- ARGV[7..]  workers that might run the model; an empty fleet is no reason to give up
--
-- Returns how many jobs were ended: none before every one of those workers has refused the model and ARGV[5] has passed
-- since the first refusal and since the job was created.

local MAX_JOBS = 1000

local model, worker, wait = ARGV[1], ARGV[2], tonumber(ARGV[5])
local name, now = key('refusals', model), now_ms()
if now - tonumber(redis.call('HGET', name, 'last') or now) > tonumber(ARGV[6]) then
  redis.call('DEL', name)
end
redis.call('HSETNX', name, 'first', now)
redis.call('HSET', name, 'last', now, 'status', ARGV[4], 'worker:' .. worker, now)
redis.call('PEXPIRE', name, ARGV[6])
if #ARGV < 7 or now - tonumber(redis.call('HGET', name, 'first')) < wait then
  return 0
end
for place = 7, #ARGV do
  if redis.call('HEXISTS', name, 'worker:' .. ARGV[place]) == 0 then
    return 0
  end
end

local jobs = {[ARGV[3]] = true}
for _, tenant in ipairs(redis.call('ZRANGE', key('waiting', model), 0, MAX_JOBS - 1)) do
  for _, entry in ipairs(redis.call('ZRANGE', key('lane', tenant, model), 0, MAX_JOBS - 1)) do
    jobs[split(entry, ':')[1]] = true
  end
end
local ended = 0
for job in pairs(jobs) do
  local created = tonumber(redis.call('HGET', key('job', job), 'create') or now)
  if ended < MAX_JOBS and now - created >= wait and is_active(job) then
    end_early(job, FAILED, ARGV[4])
    ended = ended + 1
  end
end
return ended
