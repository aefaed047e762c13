-- Renews leases.
--
-- ARGV[1]  milliseconds that they last from now
-- ARGV[2.. in fives]  token, job, task, index of the first item; 1 where the worker may have seen an item of it, else 0
--
-- Returns the tokens whose leases are gone.

local now, lost = now_ms(), {}
for place = 2, #ARGV, 5 do
  local lease = find_lease(ARGV[place], ARGV[place + 1], ARGV[place + 2], ARGV[place + 3])
  if lease then
    redis.call('ZADD', key('leases'), now + tonumber(ARGV[1]), lease.token)
    if ARGV[place + 4] == '1' and not lease.sent then
      redis.call('HSET', key('lease', lease.token), 'sent', 1)
    end
  else
    lost[#lost + 1] = ARGV[place]
  end
end
return lost
