-- Pause a trigger, or let it go on: a timer then from its next time on, and what it missed meanwhile is not counted.
-- ARGV: id, '1' to pause, next due ms, next slot ms (for a timer that goes on)
-- Returns: 'ok', or 'unknown'
local id = ARGV[1]
local t = redis.call('HMGET', K.trigger(id), 'type', 'paused')
if not t[1] then return 'unknown' end
if ARGV[2] == '1' then
  redis.call('HSET', K.trigger(id), 'paused', 1)
  redis.call('ZREM', K.timers, id)
elseif t[2] == '1' then
  redis.call('HDEL', K.trigger(id), 'paused')
  if t[1] == 'timer' then
    redis.call('ZADD', K.timers, ARGV[3], id)
    redis.call('HSET', K.trigger(id), 'slot', ARGV[4])
  end
end
return 'ok'
