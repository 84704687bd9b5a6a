-- An attempt has failed: again later, or never. A receiver that is gone pauses its subscription.
-- ARGV: id, token of the claim, what went wrong, delay_ms or '' (given up), '1' when the receiver is gone
-- Returns: 'later' | 'dead', also for the same request again; 'stale' when somebody else has it
local id, token = ARGV[1], ARGV[2]
local d = redis.call('HMGET', K.delivery(id), 'token', 'failed_by', 'lane', 'subscription')
local verdict = ARGV[4] == '' and 'dead' or 'later'
if d[2] and d[2] == token then return verdict end
if d[1] ~= token then return 'stale' end
redis.call('HSET', K.delivery(id), 'failed_by', token, 'error', ARGV[3], 'failed', int(now))
redis.call('HDEL', K.delivery(id), 'token')
count('delivery_failed')
if ARGV[5] == '1' and redis.call('EXISTS', K.subscription(d[4])) == 1 then
  redis.call('HSET', K.subscription(d[4]), 'enabled', '0', 'reason', ARGV[3])
end
if verdict == 'dead' then
  bury(id, ARGV[3])
else
  redis.call('ZREM', K.sending(d[3]), id)
  redis.call('ZADD', K.lane(d[3]), now + tonumber(ARGV[4]), id)
  look_at(d[3])
end
return verdict
