-- Notices that are to be sent now. Each is due again after `again_ms`, until it is said to be sent: at least once.
-- ARGV: again_ms, cap
-- Returns: notice, what is to be sent (JSON), …
local out = {}
for _, notice in ipairs(redis.call('ZRANGEBYSCORE', K.outbox, '-inf', int(now), 'LIMIT', 0, ARGV[2])) do
  redis.call('ZADD', K.outbox, now + tonumber(ARGV[1]), notice)
  out[#out + 1] = notice
  out[#out + 1] = redis.call('HGET', K.notices, notice)
end
return out
