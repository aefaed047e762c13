-- Ends a job that cannot go on. Results that are not in stay out; readers see its error in their place.
--
-- ARGV[1]  job
-- ARGV[2]  serialized status: why
--
-- Returns 1, or 0 where it is not there or has finished.

if not is_active(ARGV[1]) then
  return 0
end
end_early(ARGV[1], FAILED, ARGV[2])
return 1
