-- Set a timer's next time; nothing where it was removed meanwhile, is paused, or is a timer no more.
-- ARGV: trigger, next due ms, next slot ms
-- Returns: 'ok'
if redis.call('ZSCORE', K.timers, ARGV[1]) then
  redis.call('ZADD', K.timers, ARGV[2], ARGV[1])
  redis.call('HSET', K.trigger(ARGV[1]), 'slot', ARGV[3])
end
return 'ok'
