-- Set a cap while the fleet runs, or give it back to the definition. Who finds a place now is admitted.
-- ARGV: name (colony | key | agent:<name>), the cap, or '' for the definition's
-- Returns: 'ok', or 'unknown_colony'
if redis.call('HEXISTS', K.meta, 'id') == 0 then return 'unknown_colony' end
if ARGV[2] == '' then
  redis.call('HDEL', K.meta, 'override:' .. ARGV[1])
else
  redis.call('HSET', K.meta, 'override:' .. ARGV[1], ARGV[2], 'capped', '1')
end
call_all()
admit()
defer_rings()
return 'ok'
