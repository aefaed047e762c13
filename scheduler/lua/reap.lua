-- Takes back expired leases, and drops expired uploads and what is left of expired jobs; LIMIT of each at a time.
--
-- ARGV[1]  attempts that an item has
-- ARGV[2]  serialized status that becomes the result of an item that has had them
--
-- Returns {leases, uploads, jobs}: how many there were.

local LIMIT = 100

local function due(name)
  return redis.call('ZRANGEBYSCORE', key(name), '-inf', now_ms(), 'LIMIT', 0, LIMIT)
end

local leases, uploads, endings = due('leases'), due('uploads'), due('endings')
for _, token in ipairs(leases) do
  hand_back(token, true, tonumber(ARGV[1]), ARGV[2])
end
for _, job in ipairs(uploads) do
  discard(job)
end
for _, ending in ipairs(endings) do
  local job, tenant, request = unpack(split(ending, ':'))
  forget(job, tenant, request or '')
end
return {#leases, #uploads, #endings}
