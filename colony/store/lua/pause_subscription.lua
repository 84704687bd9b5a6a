-- Pause a subscription: it is not followed and nothing of it is sent; or let it go on where it was.
-- ARGV: id, '1' to let it go on | '0', reason
-- Returns: 'ok' | 'unknown'
if redis.call('EXISTS', K.subscription(ARGV[1])) == 0 then return 'unknown' end
redis.call('HSET', K.subscription(ARGV[1]), 'enabled', ARGV[2], 'reason', ARGV[3])
return 'ok'
