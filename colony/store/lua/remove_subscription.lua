-- Remove a subscription with all that is owed to it. What was given up stays among the dead.
-- ARGV: id
-- Returns: 'ok' | 'unknown'
if redis.call('EXISTS', K.subscription(ARGV[1])) == 0 then return 'unknown' end
for _, id in ipairs(redis.call('SMEMBERS', K.owed(ARGV[1]))) do
  take_off(id)
  redis.call('DEL', K.delivery(id))
  count('delivery_dropped')
end
redis.call('DEL', K.subscription(ARGV[1]), K.owed(ARGV[1]))
redis.call('ZREM', K.subscriptions, ARGV[1])
return 'ok'
