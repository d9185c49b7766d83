-- Gives a lease back, if it is still this session's with this epoch. The epoch stays: it must keep growing.
-- KEYS: own
-- ARGV: session epoch
-- Returns 1 where it was, else 0
local held = redis.call('HMGET', KEYS[1], 'sess', 'epoch')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1])
return 1
