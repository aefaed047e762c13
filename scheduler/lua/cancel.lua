-- Ends a job early. Results that are not in stay out; readers see CANCELLED in their place.
--
-- ARGV[1]  job
--
-- Returns 1, or 0 where there is no such job.

if redis.call('EXISTS', key('job', ARGV[1])) == 0 then
  return 0
end
if is_active(ARGV[1]) then
  end_early(ARGV[1], CANCELLED, '')
end
return 1
