-- Renews leases.
--
-- ARGV[1]    milliseconds that they last from now
-- ARGV[2..]  tokens
--
-- Returns the tokens whose leases are gone.

local now, lost = now_ms(), {}
for place = 2, #ARGV do
  if redis.call('ZSCORE', key('leases'), ARGV[place]) then
    redis.call('ZADD', key('leases'), now + tonumber(ARGV[1]), ARGV[place])
  else
    lost[#lost + 1] = ARGV[place]
  end
end
return lost
