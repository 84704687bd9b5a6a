-- What a colony's metrics are made of, at one moment. Changes nothing.
-- ARGV: '1' to count what was set aside, too: not every role may read that
-- Returns: {name, number, …}, nothing for a colony that is unknown; names are those of `colony.metrics.fleet`,
--          and state:<STATE>, active:<agent>, total:<what>
local meta = redis.call('HGETALL', K.meta)
if #meta == 0 then return {} end
local out = {}
local function tell(name, value) out[#out + 1], out[#out + 2] = name, tostring(value) end
local function age_of_first(key)   -- seconds since the lowest score, none when it is in the future
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return first[2] and math.max(0, (now - tonumber(first[2])) / 1000) or 0
end
for i = 1, #meta, 2 do
  local field, value = meta[i], meta[i + 1]
  if string.sub(field, 1, 6) == 'total:' then tell(field, value) end
  if string.sub(field, 1, 10) == 'cap:agent:' then
    local agent = string.sub(field, 11)
    tell('active:' .. agent, redis.call('HGET', K.active, 'agent:' .. agent) or '0')
  end
  if field == 'events' then tell('total:events', value) end
end
for _, state in ipairs({'PENDING', 'RUNNING', 'PARKED', 'COMPLETED', 'FAILED', 'STOPPED'}) do
  tell('state:' .. state, redis.call('ZCARD', K.state(state)))
end
tell('intake_paused', redis.call('HGET', K.meta, 'paused') == '1' and 1 or 0)
local nodes, draining, slots, held, lag, silent = 0, 0, 0, 0, 0, 0
for _, node in ipairs(redis.call('ZRANGEBYSCORE', K.nodes, int(now), '+inf')) do
  local of = redis.call('HMGET', K.node(node), 'concurrency', 'draining', 'lag_ms', 'silent_ms')
  nodes = nodes + 1
  held = held + redis.call('HLEN', K.held(node))
  if of[2] then draining = draining + 1 else slots = slots + tonumber(of[1] or '0') end
  lag, silent = math.max(lag, tonumber(of[3] or '0')), math.max(silent, tonumber(of[4] or '0'))
end
tell('nodes', nodes)
tell('nodes_draining', draining)
tell('nodes_lost', redis.call('ZCOUNT', K.nodes, '-inf', '(' .. int(now)))
tell('slots', slots)
tell('slots_used', held)
tell('worst_lag_seconds', lag / 1000)
tell('worst_silence_seconds', silent / 1000)
tell('oldest_pending_seconds', age_of_first(K.state('PENDING')))
tell('waiting_for_capacity', redis.call('ZCARD', K.capacity))
tell('quarantined', redis.call('ZCARD', K.quarantine))
tell('unanswered', redis.call('ZCOUNT', K.doorbells, '-inf', int(now)))
tell('overdue', redis.call('ZCOUNT', K.due, '-inf', int(now)))
tell('overdue_seconds', age_of_first(K.due))
tell('joins_waiting', redis.call('ZCARD', K.joins))
tell('deliveries_pending', redis.call('ZCARD', K.deliveries))
tell('deliveries_oldest_seconds', age_of_first(K.deliveries))
tell('deliveries_dead', redis.call('ZCARD', K.dead))
tell('notices_pending', redis.call('ZCARD', K.outbox))
tell('timers', redis.call('ZCARD', K.timers))
tell('timers_due', redis.call('ZCOUNT', K.timers, '-inf', int(now)))
tell('timers_late_seconds', age_of_first(K.timers))
if ARGV[1] == '1' then tell('rejected_kept', redis.call('LLEN', K.rejected)) end
return out
