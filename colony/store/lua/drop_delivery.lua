-- Forget a delivery, one that waits or one that was given up.
-- ARGV: id
-- Returns: 'ok' | 'unknown'
if not take_off(ARGV[1]) then return 'unknown' end
redis.call('DEL', K.delivery(ARGV[1]))
count('delivery_dropped')
return 'ok'
