-- Forget a trigger with its history; its workers live on. One that the definition declares stays away until its
-- declaration changes.
-- ARGV: id, '1' when the definition has dropped it
-- Returns: 'ok', or 'unknown'
local id = ARGV[1]
if ARGV[2] == '1' then redis.call('HDEL', K.declared, id) end
if redis.call('HDEL', K.triggers, id) == 0 then return 'unknown' end
local route = redis.call('HGET', K.trigger(id), 'route')
if route and route ~= '' then redis.call('HDEL', K.routes, route) end
redis.call('ZREM', K.timers, id)
redis.call('ZREM', K.ringing, id)
redis.call('SREM', K.watchers, id)
redis.call('DEL', K.trigger(id), K.fires(id))
call_next('trigger:' .. id)   -- there is no cap any more
admit()
defer_rings()
return 'ok'
