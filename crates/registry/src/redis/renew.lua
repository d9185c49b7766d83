-- Extends a lease. Redis may have lost writes (a failover, a flush), so the highest epoch wins: a renewal that merely
-- compared would fence the rightful publisher and let a dead one own the stream.
-- What is malformed counts as lost: the rightful holder writes over it.
-- KEYS: own epoch home primary's own
-- ARGV: session edge epoch attempt origin broadcast media_age_ms lease_ms home_ms stats slot priority address leaving
-- Returns {'renewed' | 'healed' | 'won_back' | 'fenced', highest epoch, now}
local session, edge, epoch, attempt, origin = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local now = now_ms()
local media = decimal(math.max(0, now - tonumber(ARGV[7])))
local held = redis.pcall('HMGET', KEYS[1], 'sess', 'epoch', 'since', 'psess', 'pedge')
local last = redis.pcall('GET', KEYS[2]) or '0'
if not is_epoch(last) then last = '0' end
local lost = held.err or not is_name(held[1]) or not is_epoch(held[2])

local outcome = 'renewed'
local since, previous_session, previous_edge = held[3], held[4], held[5]
if lost or held[1] ~= session or held[2] ~= epoch or above(last, epoch) then
  if not lost and above(held[2], last) then last = held[2] end
  local taken = not lost and held[1] ~= session and held[2] == epoch
  -- An epoch from the future would shut the stream for everybody who claims it later.
  if above(last, epoch) or taken or tonumber(epoch) > now + EPOCH_AHEAD_MS_MAX then
    return {'fenced', last, decimal(now)}
  end
  outcome = lost and 'healed' or 'won_back'
  since, previous_session, previous_edge = nil, nil, nil
end
-- An epoch is the time of its claim, or a little above.
if not is_epoch(since) then since = decimal(math.min(tonumber(epoch), now)) end
if not is_name(previous_session) or not is_name(previous_edge) then previous_session, previous_edge = '', '' end

put(KEYS[1], 'sess', session, 'edge', edge, 'origin', origin, 'epoch', epoch, 'attempt', attempt,
  'hb', media, 'since', since, 'psess', previous_session, 'pedge', previous_edge, 'stats', ARGV[10],
  'prio', ARGV[12], 'addr', ARGV[13], 'leaving', ARGV[14])
redis.call('PEXPIRE', KEYS[1], ARGV[8])
-- A session may live longer than its epoch's time to live.
redis.call('SET', KEYS[2], epoch, 'PX', EPOCH_TTL_MS)

-- The backup follows the primary's home and does not move it.
if ARGV[11] == '0' or redis.call('EXISTS', KEYS[4]) == 0 then
  put(KEYS[3], 'origin', origin, 'broadcast', ARGV[6])
  redis.call('PEXPIRE', KEYS[3], ARGV[9])
end
return {outcome, epoch, decimal(now)}
