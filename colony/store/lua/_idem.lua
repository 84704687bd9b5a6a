-- Idempotency keys, for the scripts that say `-- uses _idem`. A key names its first answer until its end of life: the
-- text '<end ms> <batch or -> <ids as JSON>'. Its score is since when it does, in ms. The score of one that a trigger remembers for longer
-- than the colony's others is negative: the two kinds do not make room for each other, so that a day of webhooks
-- does not cost a producer its key of a minute ago.

local function first_answer(key)   -- its ids as JSON, and its batch or '-'; nil when there is none, or too long ago
  local ends, batch, ids = string.match(redis.call('HGET', K.idem_ids, key) or '', '^(%d+) (%S+) (.*)$')
  if ends and tonumber(ends) > now then return ids, batch end
end

local function oldest_keys(kept_long, n)
  if kept_long then return redis.call('ZRANGE', K.idem, '(0', '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, n) end
  return redis.call('ZRANGE', K.idem, '(0', '+inf', 'BYSCORE', 'LIMIT', 0, n)
end
local function forget_key(key)
  redis.call('ZREM', K.idem, key)
  redis.call('HDEL', K.idem_ids, key)
end

local AT_ONCE = 100
local function remember_answer(key, batch, ids, ttl_ms, kept_long, most)
  for _, long in ipairs({true, false}) do
    for _, old in ipairs(oldest_keys(long, AT_ONCE)) do
      if first_answer(old) then break end
      forget_key(old)
    end
  end
  forget_key(key)   -- it may be of the other kind, and over
  local count_of = kept_long and redis.call('ZCOUNT', K.idem, '-inf', '(0') or redis.call('ZCOUNT', K.idem, '(0', '+inf')
  local over = math.min(count_of - most + 1, AT_ONCE)
  for _, old in ipairs(over > 0 and oldest_keys(kept_long, over) or {}) do forget_key(old) end
  local since = tonumber(clock[1]) * 1000 + tonumber(clock[2]) / 1000
  redis.call('ZADD', K.idem, kept_long and -since or since, key)
  redis.call('HSET', K.idem_ids, key, int(now + ttl_ms) .. ' ' .. (batch ~= '' and batch or '-') .. ' ' .. ids)
end
