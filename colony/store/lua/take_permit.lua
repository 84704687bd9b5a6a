-- One request of a caller, if its rate allows that: `burst` at once, then `rate` a second, fleet-wide. The key holds
-- when all that was taken will have been paid back (ms).
-- ARGV: who, how many a second, how many at once
-- Returns: 0, or after how many milliseconds to ask again (nothing was taken)
local cost = 1000 / tonumber(ARGV[2])
local key, most = K.permits(ARGV[1]), tonumber(ARGV[3]) * cost
local exact = tonumber(clock[1]) * 1000 + tonumber(clock[2]) / 1000
local function owe_until(moment)
  redis.call('SET', key, string.format('%.3f', moment), 'PX', math.max(1, math.ceil(moment - exact)))
end
local owed = math.max(exact, tonumber(redis.call('GET', key) or '0'))
if owed - exact > most then   -- the clock went back, or the rate was lowered: no more is owed than may be taken at once
  owed = exact + most
  owe_until(owed)
end
local paid = owed + cost
if paid - exact > most then return math.ceil(paid - exact - most) end
owe_until(paid)
return 0
