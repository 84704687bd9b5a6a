-- Send a delivery now, with all its attempts before it again: one that waits, or one that was given up.
-- ARGV: id
-- Returns: 'ok' | 'unknown'
local d = redis.call('HMGET', K.delivery(ARGV[1]), 'lane', 'subscription')
if not d[1] then return 'unknown' end
local due = redis.call('ZSCORE', K.lane(d[1]), ARGV[1])
if due and tonumber(due) <= now then return 'ok' end   -- it is sent now anyway
redis.call('ZREM', K.dead, ARGV[1])
redis.call('ZREM', K.sending(d[1]), ARGV[1])
redis.call('HSET', K.delivery(ARGV[1]), 'attempts', 0)
redis.call('HDEL', K.delivery(ARGV[1]), 'token')
enqueue(ARGV[1], d[1], redis.call('EXISTS', K.subscription(d[2])) == 1 and d[2] or '')
return 'ok'
