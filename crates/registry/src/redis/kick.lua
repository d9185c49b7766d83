-- Ends a lease and fences its holder. The epoch is raised first: with the record alone deleted, the holder's next
-- renewal would heal it back in. A malformed lease can be kicked too.
-- KEYS: own epoch
-- ARGV: session ('' = whoever holds it)
-- Returns {edge} of the holder, or {} where nobody was kicked
local held = redis.call('HMGET', KEYS[1], 'sess', 'epoch', 'edge')
if not held[1] or (ARGV[1] ~= '' and held[1] ~= ARGV[1]) then return {} end
local last = redis.call('GET', KEYS[2]) or '0'
if not is_epoch(last) then last = '0' end
local now = now_ms()
-- Where the holder's epoch is too far ahead to be exceeded, its renewal is refused for that.
local epoch = next_epoch(now, last, is_epoch(held[2]) and held[2] or '0')
if epoch then redis.call('SET', KEYS[2], epoch, 'PX', EPOCH_TTL_MS) end
redis.call('DEL', KEYS[1])
return {held[3] or ''}
