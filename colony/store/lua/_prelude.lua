-- Shared by all scripts; put in front of each one. K (the keys) comes from keys.py.
-- User JSON is only ever carried as text, never decoded (cjson turns [] into {} and rounds 2^53+1).

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local quote = cjson.encode
local EMBEDDED_REPORT_BYTES = 8192   -- a larger report is read from the record, not from the event

local function int(n) return string.format('%.0f', n) end
local function text_or_null(s) if s and s ~= '' then return quote(s) end return 'null' end
local function number_or(s, otherwise) if s and s ~= '' then return s end return otherwise end
local function count(what, n) redis.call('HINCRBY', K.meta, 'total:' .. what, n or 1) end

-- Whether a moment (ms, false: never) was in the last so many ms. One that is still to come was written before the
-- clock went back (a failover to a host whose clock is behind): nobody knows how long ago, so it holds up nothing.
local function was_within(moment, ms)
  local ago = now - tonumber(moment or '0')
  return ago >= 0 and ago < tonumber(ms)
end

local TERMINAL = {COMPLETED = true, FAILED = true, STOPPED = true}
local STATE_OF = {success = 'COMPLETED', partial = 'COMPLETED', failed = 'FAILED', timeout = 'FAILED', stopped = 'STOPPED'}

-- A Redis that is out of memory (noeviction) lets a script through whose first write only removes, with all that it
-- writes after it: for those that give up, forget, or put one thing in the place of another.
local function pass_when_full() redis.call('HDEL', K.meta, '') end

-- Write one lifecycle event to the log and to whoever listens; data is JSON text. It says which triggers led to it: of a
-- worker its record does, of a batch its own (cause, JSON): both may be gone when somebody asks.
local face
local function emit(kind, wid, data, cause)
  face = face or redis.call('HMGET', K.meta, 'generation', 'max_history', 'id')
  local of, who = {false, false}, 'null'
  if wid then
    of = redis.call('HMGET', K.worker(wid), 'stream', 'correlation', 'cause')
    who, cause = quote(wid), of[3]
  end
  local id = (face[1] or '1') .. '-' .. redis.call('HINCRBY', K.meta, 'events', 1)
  local event = '{"id":"' .. id .. '","type":' .. quote(kind) .. ',"colony_id":' .. quote(face[3] or '')
    .. ',"stream_id":' .. text_or_null(of[1]) .. ',"execution_id":' .. who .. ',"worker_id":' .. who
    .. ',"correlation_id":' .. text_or_null(of[2]) .. (cause and ',"cause":' .. cause or '')
    .. ',"at":' .. int(now) .. ',"data":' .. data .. '}'
  redis.call('XADD', K.events, 'MAXLEN', '~', face[2] or '10000', id, 'e', event)
  redis.call('PUBLISH', K.live, event)
end

-- The fields a transition needs to know; false where unset.
local FIELDS = {'state', 'token', 'node', 'epoch', 'started', 'attempts', 'resurrections', 'stop_status', 'stop_reason',
  'filed_status', 'filed_summary', 'filed_data', 'filed_error', 'filed_provisional', 'tokens', 'cost', 'label', 'agent', 'deadline',
  'batch', 'index', 'waits_batch', 'ckey', 'created', 'turn', 'priority', 'on_complete', 'trigger'}
local function read(wid)
  local values = redis.call('HMGET', K.worker(wid), unpack(FIELDS))
  local rec = {id = wid}
  for i, name in ipairs(FIELDS) do rec[name] = values[i] end
  return rec
end

-- Admission. PENDING and RUNNING workers are active; caps bound how many are, in the colony, per agent, per concurrency
-- key, and of a trigger. Who is over one is parked (capacity) and admitted first-in first-out when a place is free; each
-- point of priority is worth a minute of waiting, so it is honoured and starves nobody. One who waits under a full cap
-- of his own stands in that cap's line, where he is in nobody's way; with a place under it its first one comes to the
-- colony's line, the only one from which workers are admitted.
local ACTIVE = {PENDING = true, RUNNING = true}
local PRIORITY_US, COLONY = 6e7, 'colony'
local function is_capped() return redis.call('HGET', K.meta, 'capped') == '1' end
local function cap_of(name)
  local caps = redis.call('HMGET', K.meta, 'override:' .. name, 'cap:' .. name)
  return tonumber(caps[1] or caps[2] or '')
end
local function has_place()   -- in the colony
  local most = cap_of(COLONY)
  return not most or redis.call('ZCARD', K.state('PENDING')) + redis.call('ZCARD', K.state('RUNNING')) < most
end
local function caps_over(rec)   -- a worker's own: their names are those of lines, and of what K.active counts
  local caps = {'agent:' .. rec.agent}
  if rec.ckey then caps[#caps + 1] = 'key:' .. rec.ckey end
  if rec.trigger then caps[#caps + 1] = 'trigger:' .. rec.trigger end
  return caps
end
local function has_room(cap, wid)
  local kind, of = string.match(cap, '^(%a+):(.*)$')
  if kind == 'trigger' then   -- for policy queue; the others are decided at acceptance
    local t = redis.call('HMGET', K.trigger(of), 'policy', 'most')
    local most = t[1] == 'queue' and tonumber(t[2] or '')
    return not most or redis.call('SISMEMBER', K.busy(of), wid) == 1 or redis.call('SCARD', K.busy(of)) < most
  end
  local most = cap_of(kind == 'key' and 'key' or cap)
  return not most or tonumber(redis.call('HGET', K.active, cap) or '0') < most
end
local function full_cap(rec)   -- the first of its own caps under which it has no place; nil when it has one under each
  for _, cap in ipairs(caps_over(rec)) do
    if not has_room(cap, rec.id) then return cap end
  end
end
local function count_active(rec, by)
  for _, what in ipairs({'agent:' .. rec.agent, rec.ckey and 'key:' .. rec.ckey or nil}) do
    if redis.call('HINCRBY', K.active, what, by) <= 0 then redis.call('HDEL', K.active, what) end
  end
end

-- K.lines names the lines but the colony's, by when they were last looked at.
local function next_turn()   -- µs; later than any before, whatever the clock says
  local last = tonumber(redis.call('HGET', K.meta, 'last_turn') or '0')
  local turn = math.max(tonumber(clock[1]) * 1e6 + tonumber(clock[2]), last + 1)
  redis.call('HSET', K.meta, 'last_turn', int(turn))
  return int(turn)
end
local function stand(wid, cap, turn)
  redis.call('ZADD', K.line(cap), turn, wid)
  if cap ~= COLONY then redis.call('ZADD', K.lines, 'NX', now, cap) end
end
local function step_out(wid, cap)
  if redis.call('ZREM', K.line(cap), wid) == 1 and cap ~= COLONY and redis.call('EXISTS', K.line(cap)) == 0 then
    redis.call('ZREM', K.lines, cap)
  end
end
local function line_up(wid, rec)
  local turn = int(tonumber(rec.turn or rec.created * 1000) - PRIORITY_US * tonumber(rec.priority or '0'))
  redis.call('ZADD', K.capacity, turn, wid)
  redis.call('HSET', K.worker(wid), 'waits_for', 'capacity')
  stand(wid, full_cap(rec) or COLONY, turn)
end
local function leave_lines(wid, rec)
  if redis.call('ZREM', K.capacity, wid) == 0 then return end
  step_out(wid, COLONY)
  for _, cap in ipairs(caps_over(rec)) do step_out(wid, cap) end
end
local function call_next(cap)   -- the first in its line comes to the colony's, where there is room under the cap
  local first = redis.call('ZRANGE', K.line(cap), 0, 0, 'WITHSCORES')
  if not first[1] or not has_room(cap, first[1]) then return end
  step_out(first[1], cap)
  stand(first[1], COLONY, first[2])
end
local function call_all()   -- when caps have changed
  for _, cap in ipairs(redis.call('ZRANGE', K.lines, 0, -1)) do call_next(cap) end
end

-- Move a worker to another state; every index follows.
local function enter(wid, rec, state)
  if ACTIVE[rec.state] and not ACTIVE[state] then
    count_active(rec, -1)
    redis.call('HSET', K.meta, 'active_at', int(now))
  end
  if ACTIVE[state] and not ACTIVE[rec.state] then
    count_active(rec, 1)
    if rec.trigger then redis.call('SADD', K.busy(rec.trigger), wid) end
  end
  if TERMINAL[state] and rec.trigger then redis.call('SREM', K.busy(rec.trigger), wid) end
  if rec.state == 'PARKED' then leave_lines(wid, rec) end
  if rec.state then redis.call('ZREM', K.state(rec.state), wid) end
  redis.call('ZADD', K.state(state), now, wid)
  if not rec.state then redis.call('ZADD', K.listed, now, wid) end
  redis.call('HSET', K.worker(wid), 'state', state, 'since', int(now))
  if rec.node then redis.call('HDEL', K.held(rec.node), wid) end
  if rec.state == 'PENDING' then redis.call('ZREM', K.doorbells, wid) end
  rec.was, rec.state = rec.state, state
  if rec.was and redis.call('EXISTS', K.lines) == 1 then
    for _, cap in ipairs(caps_over(rec)) do call_next(cap) end
  end
end

-- Attempts are lines: a claim writes one, its end another. The oldest go when there are too many: of one that parks
-- a thousand times the latest are kept.
local ATTEMPTS_BYTES = 32768
local function note_attempt(wid, rec, line)
  local lines = (rec.attempts or '') .. line
  if #lines > ATTEMPTS_BYTES then
    lines = string.sub(lines, string.find(lines, '\n', #lines - ATTEMPTS_BYTES / 2, true) + 1)
  end
  rec.attempts = lines
  redis.call('HSET', K.worker(wid), 'attempts', lines)
end

-- Note how the current attempt ended, beside the line its claim wrote.
local function close_attempt(wid, rec, outcome)
  if not rec.token then return end
  local line = '{"epoch":' .. rec.epoch .. ',"ended_at":' .. int(now) .. ',"outcome":' .. quote(outcome) .. '}\n'
  note_attempt(wid, rec, line)
  redis.call('HDEL', K.worker(wid), 'token', 'node')
  rec.token = false
end

-- What the ringer must know of a doorbell: whom for, the label, and its place in a batch's chord.
local function add_ring(rings, wid, rec)
  local n = #rings
  rings[n + 1], rings[n + 2], rings[n + 3], rings[n + 4] = wid, rec.agent, rec.batch or '', rec.index or ''
  return rings
end

-- A member has ended; its batch remembers it by name. One that has what it needs waits to be joined.
local joinable = ''
local function arrive(wid, batch, good)
  if redis.call('SADD', K.arrived(batch), wid) == 0 then return end
  if good then redis.call('HINCRBY', K.batch(batch), 'good', 1) end
  local b = redis.call('HMGET', K.batch(batch), 'state', 'size', 'need', 'good')
  local all = redis.call('SCARD', K.arrived(batch)) == tonumber(b[2])
  if b[1] == 'OPEN' and (all or tonumber(b[4] or '0') >= tonumber(b[3])) then
    redis.call('ZADD', K.joins, 'NX', now, batch)
    joinable = batch
  elseif b[1] ~= 'OPEN' and all then   -- joined early, and the last of those not needed is in
    redis.call('DEL', K.arrived(batch))
  end
end

-- Admit who is next, while there is a place; the caller rings for those in `admitted`, or defers that to a janitor. Those
-- whose own cap has become full since they came step aside; beyond so many the next call goes on.
local admitted, RING_AGAIN_MS, STEP_ASIDE_AT_ONCE = {}, 2000, 500
local function admit()
  local aside = 0
  while aside < STEP_ASIDE_AT_ONCE do
    local first = redis.call('ZRANGE', K.line(COLONY), 0, 0, 'WITHSCORES')
    local wid = first[1]
    if not wid or not has_place() then return end
    local rec = read(wid)
    local full = full_cap(rec)
    if full then
      aside = aside + 1
      step_out(wid, COLONY)
      stand(wid, full, first[2])
      for _, cap in ipairs(caps_over(rec)) do call_next(cap) end   -- its place under the others is free for the next
    else
      enter(wid, rec, 'PENDING')
      redis.call('HDEL', K.worker(wid), 'waits_for')
      redis.call('HSET', K.worker(wid), 'rings', 0, 'rung', int(now))
      redis.call('ZADD', K.doorbells, now + RING_AGAIN_MS, wid)
      add_ring(admitted, wid, rec)
    end
  end
end
local function defer_rings()   -- in the order of their admission
  for i = 1, #admitted, 4 do redis.call('ZADD', K.due, now - (#admitted - i) / 4000, 'ring:' .. admitted[i]) end
end

-- A stop goes down the tree: a due item does the children.
local function go_down(wid)
  if redis.call('EXISTS', K.children(wid)) == 1 then redis.call('ZADD', K.due, now, 'tree:' .. wid) end
end

-- Deliveries: webhooks that are owed, written by the script that ends a worker, joins a batch or follows the events.
-- A lane is the origin of a URL: each has a queue of its own, so that none waits behind another.
local function look_at(lane)   -- when its first delivery is due
  local first = redis.call('ZRANGE', K.lane(lane), 0, 0, 'WITHSCORES')
  if first[1] then
    redis.call('ZADD', K.lanes, math.max(tonumber(first[2]), now), lane)
  else
    redis.call('ZREM', K.lanes, lane)
  end
end
local function take_off(id)   -- every list; its record stays. False when there is none
  local d = redis.call('HMGET', K.delivery(id), 'lane', 'subscription')
  if not d[1] then return false end
  redis.call('ZREM', K.lane(d[1]), id)
  redis.call('ZREM', K.sending(d[1]), id)
  redis.call('ZREM', K.deliveries, id)
  redis.call('ZREM', K.dead, id)
  redis.call('SREM', K.owed(d[2]), id)
  look_at(d[1])
  return true
end
local function bury(id, reason)   -- give it up, but keep it to be looked at and tried again
  take_off(id)
  redis.call('HSET', K.delivery(id), 'error', reason)
  redis.call('ZADD', K.dead, now, id)
  count('delivery_dead')
  local over = redis.call('ZCARD', K.dead) - tonumber(redis.call('HGET', K.meta, 'dead_deliveries_max') or '1000')
  if over > 0 then
    for _, oldest in ipairs(redis.call('ZRANGE', K.dead, 0, over - 1)) do
      take_off(oldest)
      redis.call('DEL', K.delivery(oldest))
    end
  end
end
local function enqueue(id, lane, subscription)
  redis.call('ZADD', K.deliveries, now, id)
  redis.call('ZADD', K.lane(lane), now, id)
  if subscription ~= '' then redis.call('SADD', K.owed(subscription), id) end
  look_at(lane)
end
local function deliver(id, kind, at, data, to, subscription)   -- to: OnComplete as JSON, our own
  local lane = string.match(cjson.decode(to).url, '^%a+://[^/?#]+')
  redis.call('HSET', K.delivery(id), 'type', kind, 'at', at, 'data', data, 'to', to, 'lane', lane,
    'subscription', subscription, 'created', int(now), 'attempts', 0)
  enqueue(id, lane, subscription)
  if redis.call('ZCARD', K.deliveries) > tonumber(redis.call('HGET', K.meta, 'deliveries_max') or '100000') then
    bury(redis.call('ZRANGE', K.deliveries, 0, 0)[1], 'more than deliveries_max were owed')
  end
end

-- Tell a producer of an end as it asked for (on_complete): a courier calls its URL, or a janitor sends its own task.
local function tell_producer(what, id, on_complete, told)
  if cjson.decode(on_complete).url then
    local colony = quote(redis.call('HGET', K.meta, 'id') or '')
    local data = '{"colony_id":' .. colony .. ',' .. string.sub(told, 2)
    deliver(id .. '_completed', what .. '.completed', int(now), data, on_complete, '')
  else
    redis.call('HSET', K.notices, what .. ':' .. id, '{"to":' .. on_complete .. ',"result":' .. told .. '}')
    redis.call('ZADD', K.outbox, now, what .. ':' .. id)
  end
end

-- Settle: the one step into a terminal state. A filed report wins over whatever is proposed.
local function finish(wid, rec, status, summary, data, err)
  local left = ''
  if status == 'stopped' or status == 'timeout' then
    go_down(wid)   -- also when it had filed a good report
  elseif redis.call('EXISTS', K.units(wid)) == 1 then
    left = ',"left_running":' .. cjson.encode(redis.call('ZRANGE', K.units(wid), 0, -1))
  end
  if rec.filed_status then
    if status ~= rec.filed_status then redis.call('HSET', K.worker(wid), 'overruled', status) end
    status, summary, data, err = rec.filed_status, rec.filed_summary, rec.filed_data, rec.filed_error
  end
  close_attempt(wid, rec, status)
  enter(wid, rec, STATE_OF[status])
  local seconds = 0
  if rec.started then seconds = math.max(0, now - tonumber(rec.started)) / 1000 end
  local function report(with_data)
    return '{"worker_id":' .. quote(wid) .. ',"status":' .. quote(status) .. ',"summary":' .. quote(summary)
      .. ',"data":' .. with_data .. ',"error":' .. text_or_null(err)
      .. ',"duration_seconds":' .. string.format('%.3f', seconds)
      .. ',"tokens_used":' .. number_or(rec.tokens, '0') .. ',"cost_usd":' .. number_or(rec.cost, 'null') .. left .. '}'
  end
  local whole = report(data)
  redis.call('HSET', K.worker(wid), 'report', whole, 'ended', int(now), 'status', status)
  redis.call('HDEL', K.worker(wid), 'waits_for', 'waits_batch', 'stop_status', 'stop_reason', 'filed_summary', 'filed_data',
    'filed_error', 'filed_provisional')
  redis.call('ZADD', K.ended, now, wid)
  redis.call('ZREM', K.due, 'wake:' .. wid, 'kill:' .. wid)
  if rec.deadline then redis.call('ZREM', K.due, 'deadline:' .. wid) end
  count(status)
  local small = whole
  if #whole > EMBEDDED_REPORT_BYTES then
    small = string.sub(report('{}'), 1, -2) .. ',"data_omitted":true}'
  end
  local verb = {COMPLETED = 'execution_completed', FAILED = 'execution_failed', STOPPED = 'execution_stopped'}
  emit(verb[rec.state], wid, '{"status":' .. quote(status) .. ',"error":' .. text_or_null(err) .. '}')
  emit('subagent_report', wid, '{"task":' .. quote(rec.label or '') .. ',' .. string.sub(small, 2))
  redis.call('PUBLISH', K.reports, small)
  if rec.on_complete then
    local told = whole
    if #whole > EMBEDDED_REPORT_BYTES then
      told = '{"worker_id":' .. quote(wid) .. ',"status":' .. quote(status) .. ',"data_omitted":true}'
    end
    tell_producer('worker', wid, rec.on_complete, told)
  end
  if rec.batch then arrive(wid, rec.batch, STATE_OF[status] == 'COMPLETED') end
  admit()
end

-- Ready to be claimed (again); the caller rings, and if it dies first the janitor does. Returns false, and nobody is
-- rung, when one who was parked finds no place: it lines up for one.
local function make_pending(wid, rec, ring_again_ms)
  redis.call('ZREM', K.due, 'wake:' .. wid)
  if rec.state == 'PARKED' and is_capped() and (not has_place() or full_cap(rec)) then
    redis.call('HDEL', K.worker(wid), 'waits_batch')
    line_up(wid, rec)
    return false
  end
  enter(wid, rec, 'PENDING')
  redis.call('HDEL', K.worker(wid), 'waits_for', 'waits_batch')
  redis.call('HSET', K.worker(wid), 'rings', 0, 'rung', int(now))
  redis.call('ZADD', K.doorbells, now + tonumber(ring_again_ms), wid)
  return true
end

-- A lost worker is kept from retention for as long as it is listed: until somebody drops it, or too many came after it.
local function leave_quarantine(wid)
  if redis.call('ZREM', K.quarantine, wid) == 0 then return end
  redis.call('ZADD', K.ended, redis.call('HGET', K.worker(wid), 'ended') or int(now), wid)
end
local function quarantine(wid)
  redis.call('ZREM', K.ended, wid)
  redis.call('ZADD', K.quarantine, now, wid)
  local over = redis.call('ZCARD', K.quarantine) - tonumber(redis.call('HGET', K.meta, 'quarantine_max') or '1000')
  if over > 0 then
    for _, oldest in ipairs(redis.call('ZRANGE', K.quarantine, 0, over - 1)) do leave_quarantine(oldest) end
  end
end

-- Note where a worker's node died under it: one line for each attempt that ended so.
local DEATHS_TOLD = 20
local function note_death(wid, epoch, deaths, outcome)
  local told = redis.call('HGET', K.worker(wid), 'deaths') or ''
  if deaths <= DEATHS_TOLD then
    told = told .. (told ~= '' and ', ' or '') .. 'attempt ' .. epoch .. ': ' .. outcome
    redis.call('HSET', K.worker(wid), 'deaths', told)
  end
  return told
end

-- Whether a death that may be none is not counted: a worker that takes Redis, or the way there, down with its node must
-- not be spared for ever.
local SPARED_MOST = 10
local function is_spared(wid) return redis.call('HINCRBY', K.worker(wid), 'spared', 1) <= SPARED_MOST end

-- Take a RUNNING worker from its owner. counted: as a death of its node. Returns true when it is to be rung.
local function release(wid, rec, outcome, counted, ring_again_ms)
  if rec.stop_status then
    finish(wid, rec, rec.stop_status, rec.stop_reason or 'Worker was stopped.', '{}', rec.stop_status)
    return false
  end
  close_attempt(wid, rec, outcome)
  if counted then
    local deaths = redis.call('HINCRBY', K.worker(wid), 'resurrections', 1)
    local where = note_death(wid, rec.epoch, deaths, outcome)
    local most = redis.call('HGET', K.worker(wid), 'max_resurrections') or redis.call('HGET', K.meta, 'max_resurrections')
    if deaths > tonumber(most or '3') then
      finish(wid, rec, 'failed', 'Worker was lost: its node died under it ' .. int(deaths) .. ' times: ' .. where
        .. (deaths > DEATHS_TOLD and ', …, the last attempt ' .. rec.epoch .. ': ' .. outcome or '') .. '.', '{}', 'lost')
      if not rec.filed_status then
        count('lost')
        quarantine(wid)
      end
      return false
    end
    count('rescued')
    emit('execution_resurrected', wid, '{"attempt":' .. rec.epoch .. ',"reason":' .. quote(outcome) .. '}')
  else
    emit('execution_paused', wid, '{"reason":' .. quote(outcome) .. '}')
  end
  make_pending(wid, rec, ring_again_ms)
  return true
end

-- Tell the nodes that a running worker must end; the store ends it itself after the grace time.
local function tell_stop(wid, rec, status, reason, grace_ms)
  redis.call('HSET', K.worker(wid), 'stop_status', status, 'stop_reason', reason)
  redis.call('ZADD', K.due, now + tonumber(grace_ms), 'kill:' .. wid)
  go_down(wid)
  redis.call('PUBLISH', K.hints, 'stop ' .. wid)
end

-- The fence: only the owner of the claim writes.
local function owns(rec, token) return rec.state == 'RUNNING' and rec.token == token end

-- A worker that ended without a slice is rung once more: the slice finds it ended, returns a member's part of the chord,
-- and shows the end in Flower. One that was PENDING has been rung; a member is rung nevertheless, its chord needs it.
local function owe_part(wid, rec)
  if rec.batch or rec.was ~= 'PENDING' then redis.call('ZADD', K.due, now, 'part:' .. wid) end
end

-- Stop one worker: one that waits settles at once, one that runs is told to. Returns what became of it, and true
-- when it was this call that did it.
local function stop_one(wid, status, reason, grace_ms)
  local rec = read(wid)
  if not rec.state or rec.state == 'STAGED' then return 'unknown' end
  if TERMINAL[rec.state] then return 'ended' end
  if rec.state == 'RUNNING' and grace_ms ~= '0' then
    if rec.stop_status then return 'told', false end
    tell_stop(wid, rec, status, reason, grace_ms)
    return 'told', true
  end
  local was_running = rec.state == 'RUNNING'
  finish(wid, rec, status, reason, '{}', status)
  owe_part(wid, rec)
  if was_running then redis.call('PUBLISH', K.hints, 'stop ' .. wid) end
  return 'settled', true
end
