-- Note up to where an event trigger has seen the events. Not where it was removed meanwhile, or watches another colony,
-- and not by one who comes second: it would set it back.
-- ARGV: trigger, the colony that it watches, cursor, new cursor
-- Returns: 'ok', also for the same request again; 'moved' where the cursor is another one
local t = redis.call('HMGET', K.trigger(ARGV[1]), 'watched', 'cursor')
if t[1] and t[1] ~= ARGV[2] then return 'moved' end
if t[2] == ARGV[4] then return 'ok' end
if t[2] ~= ARGV[3] then return 'moved' end
redis.call('HSET', K.trigger(ARGV[1]), 'cursor', ARGV[4])
return 'ok'
