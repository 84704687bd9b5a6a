-- A notice was sent.
-- ARGV: notice
-- Returns: 'ok'
redis.call('ZREM', K.outbox, ARGV[1])
redis.call('HDEL', K.notices, ARGV[1])
redis.call('HDEL', K.tried, ARGV[1])
return 'ok'
