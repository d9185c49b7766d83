-- Counts a session as one of the uses of something that has a number of them. A retry is not another use.
-- KEYS: uses
-- ARGV: session max ttl_ms
-- Returns 1 where it is one of them, 0 where all were used up before
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 0 then
  if redis.call('SCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
  redis.call('SADD', KEYS[1], ARGV[1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
