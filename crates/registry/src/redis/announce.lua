-- An origin says that it is there. The index forgets whoever has not said so for a while.
-- KEYS: index record
-- ARGV: name ttl_ms relay_address zone draining streams budget_percent
local now = now_ms()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', decimal(now))
redis.call('ZADD', KEYS[1], decimal(now + tonumber(ARGV[2])), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('HSET', KEYS[2], 'relay', ARGV[3], 'zone', ARGV[4], 'draining', ARGV[5], 'streams', ARGV[6], 'budget', ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
