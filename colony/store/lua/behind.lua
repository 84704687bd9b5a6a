-- Which subscriptions have events before them. Asked by every node, answered to one per interval. Those that are
-- paused, or owed so many deliveries already, are let be.
-- ARGV: interval_ms, how many may be owed to one
-- Returns: {the latest event's id, {id, specification, cursor, …}}
local meta = redis.call('HMGET', K.meta, 'generation', 'events', 'followed')
local latest = (meta[1] or '1') .. '-' .. (meta[2] or '0')
local out = {}
if redis.call('ZCARD', K.subscriptions) == 0 or was_within(meta[3], ARGV[1]) then return {latest, out} end
redis.call('HSET', K.meta, 'followed', int(now))
for _, id in ipairs(redis.call('ZRANGE', K.subscriptions, 0, -1)) do
  local s = redis.call('HMGET', K.subscription(id), 'enabled', 'cursor', 'spec')
  if s[1] == '1' and s[2] ~= latest and redis.call('SCARD', K.owed(id)) < tonumber(ARGV[2]) then
    for _, value in ipairs({id, s[3], s[2]}) do out[#out + 1] = value end
  end
end
return {latest, out}
