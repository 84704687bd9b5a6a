-- Keep a trigger, new or changed. A timer whose times have not changed keeps its next time.
-- ARGV: 1 id, 2 specification (JSON), 3 type, 4 max_concurrent or '', 5 policy, 6 route or '', 7 digest of its times or '',
--       8 next due ms, 9 next slot ms, 10 digest of its declaration, or '' when it was put by hand,
--       11 how many triggers a colony may have, 12 the colony whose events it watches or '',
--       13 the latest of those events, which it is not to fire upon,
--       14 due ms and 15 slot ms instead of 8 and 9 where it is a timer for the first time, or '',
--       16 a trigger that gives its route away, as its declaration is to be 17 next, or ''
-- Returns: {'ok'}, {'unknown_colony'}, {'route', the trigger that has it}, {'too_many', have}
local id = ARGV[1]
if redis.call('HEXISTS', K.meta, 'id') == 0 then return {'unknown_colony'} end
if ARGV[10] ~= '' then
  if redis.call('HGET', K.declared, id) == ARGV[10] then return {'ok'} end   -- what was done with it since stands
end
local new = redis.call('HEXISTS', K.triggers, id) == 0
if new and redis.call('HLEN', K.triggers) >= tonumber(ARGV[11]) then return {'too_many', redis.call('HLEN', K.triggers)} end
if ARGV[6] ~= '' then
  local owner = redis.call('HGET', K.routes, ARGV[6])
  if owner and owner ~= id then
    if owner ~= ARGV[16] or redis.call('HGET', K.declared, owner) == ARGV[17] then return {'route', owner} end
    redis.call('HSET', K.trigger(owner), 'route', '')
  end
end
local old = redis.call('HMGET', K.trigger(id), 'route', 'times', 'watched', 'cursor')
if old[1] and old[1] ~= ARGV[6] then redis.call('HDEL', K.routes, old[1]) end
if ARGV[6] ~= '' then redis.call('HSET', K.routes, ARGV[6], id) end
redis.call('HSET', K.triggers, id, ARGV[2])
redis.call('HSET', K.trigger(id), 'type', ARGV[3], 'most', ARGV[4], 'policy', ARGV[5], 'route', ARGV[6], 'times', ARGV[7])
redis.call('HSETNX', K.trigger(id), 'created', int(now))
if ARGV[7] == '' then
  redis.call('ZREM', K.timers, id)
elseif old[2] ~= ARGV[7] then
  local is_first = (ARGV[14] or '') ~= '' and (old[2] or '') == ''
  redis.call('HSET', K.trigger(id), 'slot', ARGV[is_first and 15 or 9])
  if redis.call('HGET', K.trigger(id), 'paused') ~= '1' then redis.call('ZADD', K.timers, ARGV[is_first and 14 or 8], id) end
end
if ARGV[12] == '' then
  redis.call('HDEL', K.trigger(id), 'watched', 'cursor')
  redis.call('SREM', K.watchers, id)
else
  -- A cursor is a place in one log: who watches another colony, or begins to watch, begins with what comes from now on.
  if not old[4] or (old[3] and old[3] ~= ARGV[12]) then redis.call('HSET', K.trigger(id), 'cursor', ARGV[13]) end
  redis.call('HSET', K.trigger(id), 'watched', ARGV[12])
  redis.call('SADD', K.watchers, id)
end
if ARGV[10] ~= '' then redis.call('HSET', K.declared, id, ARGV[10]) end
if ARGV[5] == 'queue' and ARGV[4] ~= '' then
  redis.call('HSET', K.meta, 'capped', '1', 'trigger_capped', '1')
end
call_next('trigger:' .. id)   -- its cap may have been raised
admit()
defer_rings()
return {'ok'}
