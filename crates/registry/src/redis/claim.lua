-- The right to publish. Idempotent per session: asked again, the holder gets the same answer, unless an origin has
-- seen a higher epoch (the floor) or the home's origin is gone.
-- KEYS: own epoch home
-- ARGV: session edge candidate lease_ms policy grace_ms floor broadcast home_ms stats priority address patient announced...
-- Returns {'granted', epoch, origin, broadcast, previous session, previous edge, now}
--      or {'refused', session, edge, milliseconds since its last media} or {'leaving'} or {'future'}
local session, edge, candidate, lease_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local policy, grace_ms, floor = ARGV[5], tonumber(ARGV[6]), ARGV[7]
local now = now_ms()
local last = redis.call('GET', KEYS[2]) or '0'
if not is_epoch(last) then return redis.error_reply('MALFORMED epoch') end

local held = redis.call('HMGET', KEYS[1], 'sess', 'edge', 'epoch', 'hb', 'since', 'psess', 'pedge',
  'prio', 'addr', 'leaving')
local exists = redis.call('EXISTS', KEYS[1]) == 1
local mine = held[1] == session
local since, previous_session, previous_edge = decimal(now), '', ''
if exists then
  local hb = tonumber(held[4] or '')
  if not is_name(held[1]) or not is_name(held[2]) or not is_epoch(held[3]) or not hb then
    return redis.error_reply('MALFORMED lease')
  end
  if above(held[3], last) then last = held[3] end
  if mine then
    if is_epoch(held[5]) then since = held[5] end
    if is_name(held[6]) and is_name(held[7]) then previous_session, previous_edge = held[6], held[7] end
  else
    local age = math.max(0, now - hb)
    local leaving = held[10] == '1'
    if leaving and ARGV[13] == '1' then return {'leaving'} end
    local replaces = policy == 'takeover' or (policy ~= 'reject' and age >= grace_ms)
      or (policy == 'priority' and tonumber(ARGV[11]) > (tonumber(held[8] or '') or 0))
      or (policy == 'address' and ARGV[12] ~= '' and ARGV[12] == held[9])
    if not replaces and not leaving then
      return {'refused', held[1], held[2], decimal(age)}
    end
    previous_session, previous_edge = held[1], held[2]
  end
end

local repeated = mine and held[3] == last and above(last, floor)
local epoch = repeated and last or next_epoch(now, last, floor)
if not epoch then return {'future'} end

local home = redis.call('HMGET', KEYS[3], 'origin', 'broadcast')
local origin, broadcast = candidate, ARGV[8]
if home[1] and home[2] then
  -- Whoever read the broadcast, by way of another origin too, reads on.
  broadcast = home[2]
  local there = home[1] == candidate
  for i = 14, #ARGV do there = there or home[1] == ARGV[i] end
  if there then origin = home[1] end
end
redis.call('HSET', KEYS[3], 'origin', origin, 'broadcast', broadcast)
redis.call('PEXPIRE', KEYS[3], ARGV[9])

if repeated then
  redis.call('HSET', KEYS[1], 'origin', origin)
else
  redis.call('SET', KEYS[2], epoch, 'PX', EPOCH_TTL_MS)
  -- Every field: what the one before had is not deleted (see put).
  redis.call('HSET', KEYS[1], 'sess', session, 'edge', edge, 'origin', origin, 'epoch', epoch, 'attempt', '0',
    'hb', decimal(now), 'since', since, 'psess', previous_session, 'pedge', previous_edge, 'stats', ARGV[10],
    'prio', ARGV[11], 'addr', ARGV[12], 'leaving', '0')
end
redis.call('PEXPIRE', KEYS[1], lease_ms)
return {'granted', epoch, origin, broadcast, previous_session, previous_edge, decimal(now)}
