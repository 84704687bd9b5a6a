-- A delivery has arrived; whoever says so, also one whose lease is over: it is not sent again.
-- ARGV: id
-- Returns: 'ok'
local subscription = redis.call('HGET', K.delivery(ARGV[1]), 'subscription')
if not subscription then return 'ok' end
take_off(ARGV[1])
redis.call('DEL', K.delivery(ARGV[1]))
count('delivered')
if redis.call('EXISTS', K.subscription(subscription)) == 1 then
  redis.call('HINCRBY', K.subscription(subscription), 'delivered', 1)
end
return 'ok'
