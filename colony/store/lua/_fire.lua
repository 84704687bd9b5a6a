-- Fires of triggers, for the scripts that say `-- uses _fire`. A fire is our own JSON: {trigger, source, due?, slot?,
-- next_due?, next_slot?, missed, idle_ms?, grace_ms, remember_ms?}; due is what a timer's next time must still be,
-- remember_ms how long its idempotency key is known, among those of other such fires.

local HISTORY = 100
local function note_fire(fire, outcome, worker)
  redis.call('LPUSH', K.fires(fire.trigger), '{"at":' .. int(now) .. ',"source":' .. quote(fire.source)
    .. ',"due":' .. (fire.slot and int(fire.slot) or 'null') .. ',"missed":' .. int(fire.missed)
    .. ',"outcome":' .. quote(outcome) .. ',"worker_id":' .. text_or_null(worker) .. '}')
  redis.call('LTRIM', K.fires(fire.trigger), 0, HISTORY - 1)
  if fire.missed > 0 then
    redis.call('HINCRBY', K.trigger(fire.trigger), 'missed', fire.missed)
    count('fires_missed', fire.missed)
  end
  if worker then
    redis.call('HINCRBY', K.trigger(fire.trigger), 'fired', 1)
    redis.call('HSET', K.trigger(fire.trigger), 'last_fired', int(now))
    count('fired')
  else
    count('fires_skipped')
  end
  if fire.due then
    redis.call('ZADD', K.timers, int(fire.next_due), fire.trigger)
    redis.call('HSET', K.trigger(fire.trigger), 'slot', int(fire.next_slot))
    redis.call('ZREM', K.ringing, fire.trigger)
  end
end

-- Why a timer does not fire now; nil when it may.
local function why_not_now(fire)
  local due = redis.call('ZSCORE', K.timers, fire.trigger)
  if redis.call('HGET', K.meta, 'timers_paused') == '1' then return 'paused' end
  if not due or tonumber(due) ~= fire.due then return 'fired' end
  if fire.due > now then return 'early' end
end

local function is_active_within(ms)
  if redis.call('ZCARD', K.state('PENDING')) + redis.call('ZCARD', K.state('RUNNING')) > 0 then return true end
  local last = tonumber(redis.call('HGET', K.meta, 'active_at') or '0')
  if last > now then redis.call('HSET', K.meta, 'active_at', int(now)) end   -- the clock went back: idle from now on
  return now - last < ms
end

-- Whether a trigger may fire: nil, or why not. A timer that passes over is set forward.
local function may_not_fire(fire)
  local t = redis.call('HMGET', K.trigger(fire.trigger), 'type', 'paused', 'most', 'policy')
  if not t[1] then return 'unknown' end
  if t[2] == '1' then return 'paused' end
  local reason = fire.due and why_not_now(fire)
  if reason then return reason end
  if fire.idle_ms and is_active_within(fire.idle_ms) then
    note_fire(fire, 'skipped: the fleet is active', nil)
    return 'active'
  end
  local most = tonumber(t[3] or '')
  if not most or t[4] == 'queue' or redis.call('SCARD', K.busy(fire.trigger)) < most then return nil end
  if t[4] == 'skip' then
    note_fire(fire, 'skipped: max_concurrent', nil)
    return 'busy'
  end
  for _, wid in ipairs(redis.call('SMEMBERS', K.busy(fire.trigger))) do
    stop_one(wid, 'stopped', 'Worker was replaced by the next one of its trigger.', fire.grace_ms)
    if redis.call('HGET', K.worker(wid), 'stop_status') then redis.call('SREM', K.busy(fire.trigger), wid) end
  end
end
