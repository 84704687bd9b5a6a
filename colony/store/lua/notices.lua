-- Notices that are to be sent now. Each is due again after `again_ms`, and each time after twice as long, until it is said
-- to be sent: at least once, and one that never can be keeps nobody busy.
-- ARGV: again_ms, cap
-- Returns: notice, what is to be sent (JSON), …
local MOST_TIMES = 32   -- as long as the first time, at most
local out = {}
for _, notice in ipairs(redis.call('ZRANGEBYSCORE', K.outbox, '-inf', int(now), 'LIMIT', 0, ARGV[2])) do
  local before = redis.call('HINCRBY', K.tried, notice, 1) - 1
  redis.call('ZADD', K.outbox, now + tonumber(ARGV[1]) * math.min(2 ^ before, MOST_TIMES), notice)
  out[#out + 1] = notice
  out[#out + 1] = redis.call('HGET', K.notices, notice)
end
return out
