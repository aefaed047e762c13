-- Commits results of a leased chunk, all of them or the first that are ready. The lease ends with its last result, the
-- job with its own.
--
-- ARGV[1]  token
-- ARGV[2.. in threes]  item index; 1 where the result is an error, else 0; serialized result
--
-- Returns 1, or 0 where the lease is gone: then nothing was committed.

local token = ARGV[1]
local job, task, first, count = unpack(redis.call('HMGET', key('lease', token), 'job', 'task', 'start', 'count'))
if not job then
  return 0
end
first, count, task = tonumber(first), tonumber(count), tonumber(task)
local tasks = tonumber(redis.call('HGET', key('job', job), 'tasks'))
local stored, failed = 0, 0
for place = 2, #ARGV, 3 do
  local index = tonumber(ARGV[place])
  if index >= first and index < first + count and record(job, tasks, task, index, 'r', ARGV[place + 2]) then
    stored = stored + 1
    failed = failed + tonumber(ARGV[place + 1])
  end
end
if #pending(job, tasks, task, first, count, 1) == 0 then
  drop_lease(job, token)
end
count_results(job, stored, failed)
return 1
