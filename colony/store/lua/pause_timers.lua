-- Hold all timers, or let them go on.
-- ARGV: '1' to hold
-- Returns: {'ok', the timers whose time has passed meanwhile} or {'unknown_colony'}
if redis.call('HEXISTS', K.meta, 'id') == 0 then return {'unknown_colony'} end
if ARGV[1] == '1' then
  redis.call('HSET', K.meta, 'timers_paused', 1)
  return {'ok', {}}
end
return {'ok', redis.call('ZRANGEBYSCORE', K.timers, '-inf', int(now))}
