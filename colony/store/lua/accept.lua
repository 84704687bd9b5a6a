-- Accept workers: all of them or none. Record, indexes, event; the doorbell is the caller's next step.
-- ARGV: 1 idempotency key or '', 2 its ttl_ms (but see _fire.lua: remember_ms), 3 '1' when a live node is required, 4 ring_again_ms,
--       5 deadline 'in:<ms>' | 'at:<ms>' | '', 6 not before (same form), 7 first staged id or '', 8 how many workers,
--       9 batch or '', 10 its policy, 11 how many good reports it needs, 12 on_complete (JSON) or '',
--       13 the parent that spawns them or '', 14 its claim token, 15 for background work of that parent: how many
--       such batches may run at once, else '', 16 '1' when one too many is queued (else it is refused),
--       17 the fire of a trigger (JSON: see _fire.lua) or '',
--       then per worker: id, number of values, field, value, …   (nothing more when staged)
-- Returns: {'accepted', 'now' | 'later'} (also for the same request again), {'known', {id, …}, batch or '-'} for a
--          known idempotency key (a list of its own: 10,000 ids are more than unpack can take), or
--          {'unknown_colony'} | {'paused'} | {'no_nodes'} | {'full', pending, max} | {'stage_lost'}, and for a parent:
--          {'stale'} (or it or one above it is being stopped) | {'depth', max} | {'descendants', have, max} | {'background', have, max}, and for a
--          trigger: {'not_fired', unknown | paused | early | fired | active | busy}
-- uses _fire
-- uses _idem
local FIRST = 18
local ids, n = {}, tonumber(ARGV[8])
local batch, parent = ARGV[9], ARGV[13]
if ARGV[7] ~= '' then
  ids = redis.call('LRANGE', K.staged(ARGV[7]), 0, -1)
else
  local i = FIRST
  while i <= #ARGV do ids[#ids + 1] = ARGV[i]; i = i + 2 + tonumber(ARGV[i + 1]) end
end

local first = redis.call('HGET', K.worker(ARGV[7] ~= '' and ARGV[7] or ids[1]), 'state')
if not first and (batch or '') ~= '' and redis.call('EXISTS', K.batch(batch)) == 1 then return {'accepted', 'now'} end   -- partly forgotten
local fire = (ARGV[17] or '') ~= '' and cjson.decode(ARGV[17]) or nil
if first and first ~= 'STAGED' then
  if fire and fire.due and not why_not_now(fire) then   -- due again, after the clock was set back
    note_fire(fire, 'skipped: this time was fired before', nil)
  end
  return {'accepted', first == 'PARKED' and 'later' or 'now'}
end
local key = ARGV[1]
if key ~= '' then
  local answered, of = first_answer(key)
  if answered then return {'known', cjson.decode(answered), of} end
end
-- The first record was staged first and is the first to expire, before the list does.
if #ids ~= n or (ARGV[7] ~= '' and not first) then return {'stage_lost'} end

local meta = redis.call('HMGET', K.meta, 'id', 'paused', 'max_pending', 'idempotency_max_keys', 'version', 'default_agent')
if not meta[1] then return {'unknown_colony'} end
if meta[2] == '1' and parent == '' then return {'paused'} end   -- what was accepted goes on, with its children
if ARGV[3] == '1' and redis.call('ZCOUNT', K.nodes, int(now), '+inf') == 0 then return {'no_nodes'} end
local pending = redis.call('ZCARD', K.state('PENDING')) + redis.call('ZCARD', K.capacity)
local max = tonumber(meta[3] or '100000')
if pending + n > max then return {'full', pending, max} end

if fire then
  local reason = may_not_fire(fire)
  if reason then return {'not_fired', reason} end
end

local function moment(spec)
  if spec == '' then return nil end
  local ms = tonumber(string.sub(spec, 4))
  if string.sub(spec, 1, 3) == 'in:' then return now + ms end
  return ms
end
local root, depth, ceiling, queued, cause = nil, 0, nil, false, nil
local function is_being_stopped(wid)   -- it, or one above it whose stop has not come down to it yet
  while wid do
    local above = redis.call('HMGET', K.worker(wid), 'stop_status', 'parent')
    if above[1] or redis.call('ZSCORE', K.due, 'tree:' .. wid) then return true end
    wid = above[2]
  end
end
if parent ~= '' then
  local limits = redis.call('HMGET', K.meta, 'max_depth', 'max_descendants')
  local p = redis.call('HMGET', K.worker(parent), 'state', 'token', 'root', 'depth', 'deadline', 'cause')
  if p[1] ~= 'RUNNING' or p[2] ~= ARGV[14] or is_being_stopped(parent) then return {'stale'} end
  root, depth, ceiling = p[3], tonumber(p[4] or '0') + 1, tonumber(p[5])
  cause = p[6]
  if depth >= tonumber(limits[1] or '3') then return {'depth', limits[1] or '3'} end
  local have, most = tonumber(redis.call('HGET', K.worker(root), 'descendants') or '0'), tonumber(limits[2] or '200')
  if have + n > most then return {'descendants', have, most} end
  if ARGV[15] ~= '' then
    local out = redis.call('ZCOUNT', K.units(parent), 0, 0)
    queued = out >= tonumber(ARGV[15])
    if queued and ARGV[16] ~= '1' then return {'background', out, ARGV[15]} end
    redis.call('ZADD', K.units(parent), queued and tonumber(clock[1]) * 1e6 + tonumber(clock[2]) or 0, batch)
    redis.call('HSET', K.batch(batch), 'background', ARGV[15])
  end
  if redis.call('EXISTS', K.worker(root)) == 1 then redis.call('HINCRBY', K.worker(root), 'descendants', n) end
  for _, wid in ipairs(ids) do redis.call('SADD', K.children(parent), wid) end
end
local deadline, not_before = moment(ARGV[5]), moment(ARGV[6])
if ceiling and (not deadline or deadline > ceiling) then deadline = ceiling end   -- never later than the parent's
local later = not_before and not_before > now

local capped = is_capped()
local i = FIRST
for position, wid in ipairs(ids) do
  local record = K.worker(wid)
  if ARGV[7] == '' then
    local values = tonumber(ARGV[i + 1])
    redis.call('HSET', record, unpack(ARGV, i + 2, i + 1 + values))
    i = i + 2 + values
  else
    redis.call('PERSIST', record)
  end
  redis.call('HSET', record, 'created', int(now), 'since', int(now), 'version', meta[5] or '', 'rung', int(now))
  redis.call('HSETNX', record, 'agent', meta[6] or 'agent')
  if batch ~= '' then redis.call('HSET', record, 'batch', batch, 'index', position - 1) end
  if root then redis.call('HSET', record, 'parent', parent, 'root', root, 'depth', depth) end
  if cause then redis.call('HSET', record, 'cause', cause) end
  if capped then redis.call('HSET', record, 'turn', next_turn()) end
  if deadline then
    redis.call('HSET', record, 'deadline', int(deadline))
    redis.call('ZADD', K.due, deadline, 'deadline:' .. wid)
  end
  local rec = read(wid)
  rec.state = false
  if fire and redis.call('HGET', K.trigger(fire.trigger), 'policy') ~= 'queue' then
    redis.call('SADD', K.busy(fire.trigger), wid)
  end
  if later then
    redis.call('HSET', record, 'not_before', int(not_before), 'waits_for', 'time')
    redis.call('ZADD', K.due, not_before, 'wake:' .. wid)
    enter(wid, rec, 'PARKED')
  elseif queued then   -- until one of its parent's other batches is joined
    redis.call('HSET', record, 'waits_for', 'siblings')
    enter(wid, rec, 'PARKED')
  elseif capped and (redis.call('EXISTS', K.line(COLONY)) == 1 or not has_place() or full_cap(rec)) then
    enter(wid, rec, 'PARKED')
    line_up(wid, rec)
  else
    enter(wid, rec, 'PENDING')
    redis.call('ZADD', K.doorbells, now + tonumber(ARGV[4]), wid)
    if capped then add_ring(admitted, wid, rec) end
  end
end
if ARGV[7] ~= '' then redis.call('DEL', K.staged(ARGV[7])) end
if batch ~= '' then
  local of = redis.call('HMGET', K.worker(ids[1]), 'correlation', 'cause')
  redis.call('HSET', K.batch(batch), 'state', 'OPEN', 'size', n, 'policy', ARGV[10], 'need', ARGV[11], 'good', 0,
    'on_complete', ARGV[12], 'parent', parent, 'created', int(now), 'correlation', of[1] or '')
  if of[2] then redis.call('HSET', K.batch(batch), 'cause', of[2]) end
  for _, wid in ipairs(ids) do redis.call('RPUSH', K.members(batch), wid) end
  if deadline then
    redis.call('HSET', K.batch(batch), 'deadline', int(deadline))
    redis.call('ZADD', K.due, deadline, 'batch:' .. batch)
  end
end

if key ~= '' then
  local long = fire and fire.remember_ms
  remember_answer(key, batch, cjson.encode(ids), long or tonumber(ARGV[2]), long, tonumber(meta[4] or '10000'))
end
if capped then admit() end
count('accepted', n)
if fire then note_fire(fire, 'accepted', ids[1]) end
local named = {}
for j = 1, math.min(n, 100) do named[j] = ids[j] end
emit('execution_accepted', ids[1], '{"count":' .. n .. ',"batch_id":' .. text_or_null(batch) .. ',"worker_ids":' .. cjson.encode(named) .. '}')
defer_rings()   -- where there are caps a janitor rings for those who found a place
return {'accepted', (later or queued or capped) and 'later' or 'now'}
