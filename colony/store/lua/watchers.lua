-- The triggers that events fire. Asked by every node, answered to one per interval.
-- ARGV: interval_ms
-- Returns: trigger, its specification (JSON), its cursor, …
local out = {}
if redis.call('SCARD', K.watchers) == 0 then return out end
if was_within(redis.call('HGET', K.meta, 'watched'), ARGV[1]) then return out end
redis.call('HSET', K.meta, 'watched', int(now))
for _, id in ipairs(redis.call('SMEMBERS', K.watchers)) do
  local n = #out
  out[n + 1], out[n + 2] = id, redis.call('HGET', K.triggers, id) or ''
  out[n + 3] = redis.call('HGET', K.trigger(id), 'cursor') or ''
end
return out
