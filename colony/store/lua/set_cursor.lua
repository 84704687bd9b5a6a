-- Note up to where an event trigger has seen the events; nothing where it was removed meanwhile.
-- ARGV: trigger, cursor
-- Returns: 'ok'
if redis.call('EXISTS', K.trigger(ARGV[1])) == 1 then redis.call('HSET', K.trigger(ARGV[1]), 'cursor', ARGV[2]) end
return 'ok'
