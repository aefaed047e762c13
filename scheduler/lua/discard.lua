-- Drops an upload that will not be published.
--
-- ARGV[1]  job

if redis.call('ZSCORE', key('uploads'), ARGV[1]) then
  discard(ARGV[1])
end
return 1
