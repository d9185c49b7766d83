-- In front of every script. All of a script's keys carry one hash tag.
-- Epochs are decimal strings: Lua's numbers are doubles and round above 2^53. A number is made of one only where a
-- rounded value is far above the limit anyway.

local EPOCH_AHEAD_MS_MAX = 60000
local EPOCH_TTL_MS = 604800000

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function decimal(number) return string.format('%.0f', number) end

local function above(a, b)
  if #a ~= #b then return #a > #b end
  return a > b
end

local function is_epoch(value) -- 64 bits, unsigned
  return type(value) == 'string' and not above(value, '18446744073709551615')
    and (value == '0' or string.match(value, '^[1-9]%d*$') ~= nil)
end

local function is_name(value)
  return type(value) == 'string' and #value <= 128 and string.match(value, '^[%w._:-]+$') ~= nil
end

-- Writes over a hash, or over what of another type is there. Nothing is deleted first where it need not be: in a slot that
-- Redis Cluster is moving, a script cannot write again what it has deleted.
local function put(key, ...)
  local written = redis.pcall('HSET', key, ...)
  if type(written) ~= 'table' then return end
  if string.find(written.err, 'WRONGTYPE', 1, true) then redis.call('DEL', key) end
  redis.call('HSET', key, ...)
end

-- The first epoch above all of these, or nil where it would be too far ahead of the clock.
local function next_epoch(now, ...)
  local epoch = now
  for _, last in ipairs({...}) do epoch = math.max(epoch, tonumber(last) + 1) end
  if epoch <= now + EPOCH_AHEAD_MS_MAX then return decimal(epoch) end
end
