-- Add a subscription, or change one: it goes on where it was. A new one begins behind the latest event, or at the start.
-- ARGV: id, specification (JSON), to (JSON, as in on_complete), '0' to begin at the start of the log or '', most
-- Returns: 'ok' | 'full'
local key = K.subscription(ARGV[1])
if redis.call('EXISTS', key) == 0 and redis.call('ZCARD', K.subscriptions) >= tonumber(ARGV[5]) then return 'full' end
local meta = redis.call('HMGET', K.meta, 'generation', 'events')
redis.call('ZADD', K.subscriptions, 'NX', now, ARGV[1])
redis.call('HSETNX', key, 'cursor', ARGV[4] ~= '' and '0-0' or (meta[1] or '1') .. '-' .. (meta[2] or '0'))
redis.call('HSET', key, 'spec', ARGV[2], 'to', ARGV[3], 'enabled', '1', 'reason', '')
return 'ok'
