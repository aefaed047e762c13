-- Ends a job early. Results that are not in stay out; readers see CANCELLED in their place.
--
-- ARGV[1]  job
--
-- Returns 1, or 0 where there is no such job.

local job = ARGV[1]
local name = key('job', job)
local state, results, committed = unpack(redis.call('HMGET', name, 'state', 'results', 'committed'))
if not state then
  return 0
end
if tonumber(state) ~= QUEUED and tonumber(state) ~= RUNNING then
  return 1
end
redis.call('HSET', name, 'committed', results)
redis.call('HINCRBY', name, 'errors', results - committed)
finish(job, CANCELLED)
tell('job ' .. job)
tell('cancel ' .. job)
return 1
