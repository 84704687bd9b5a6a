-- Move a subscription's cursor, and owe it what lies between: one script, so that no event is passed over or comes twice.
-- ARGV: id, cursor, new cursor, then per delivery: id, type, at_ms, data (JSON)
-- Returns: 'ok', also for the same request again; 'moved' when somebody else was there first, or it was removed
local s = redis.call('HMGET', K.subscription(ARGV[1]), 'cursor', 'to')
if s[1] == ARGV[3] then return 'ok' end
if s[1] ~= ARGV[2] then return 'moved' end
for i = 4, #ARGV, 4 do deliver(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], s[2], ARGV[1]) end
redis.call('HSET', K.subscription(ARGV[1]), 'cursor', ARGV[3])
return 'ok'
