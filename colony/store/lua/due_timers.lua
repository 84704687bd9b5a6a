-- Timers that are due. Each is handed to one ringer at a time: to the next one when this one has not fired it in a second.
-- ARGV: cap
-- Returns: now ms, then trigger, its specification (JSON), due ms, slot ms, …
local RINGS_MS = 1000
local out = {int(now)}
if redis.call('HGET', K.meta, 'timers_paused') == '1' then return out end
redis.call('ZREMRANGEBYSCORE', K.ringing, '-inf', int(now))
redis.call('ZREMRANGEBYSCORE', K.ringing, '(' .. int(now + RINGS_MS), '+inf')   -- from before the clock went back
-- Those that are being rung stand in front; they are looked past.
local rung = redis.call('ZCARD', K.ringing)
local due = redis.call('ZRANGEBYSCORE', K.timers, '-inf', int(now), 'WITHSCORES', 'LIMIT', 0, rung + tonumber(ARGV[1]))
for i = 1, #due, 2 do
  if #out > 4 * tonumber(ARGV[1]) then break end
  local id = due[i]
  if redis.call('ZADD', K.ringing, 'NX', now + RINGS_MS, id) == 1 then
    local n = #out
    out[n + 1], out[n + 2], out[n + 3] = id, redis.call('HGET', K.triggers, id) or '', due[i + 1]
    out[n + 4] = redis.call('HGET', K.trigger(id), 'slot') or due[i + 1]
  end
end
return out
