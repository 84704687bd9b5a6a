-- Do one due item:
--   deadline:<worker>  its time is over            kill:<worker>  it was told to stop and did not
--   batch:<batch>      its time is over: stragglers end with status timeout
--   rest:<batch>       its policy was met without these: they are stopped
--   tree:<worker>      it was stopped, or was when it had ended: so are its children
--   ring:<worker>      it was admitted by a script that could not ring for it, or a node of another version was rung
--   part:<worker>      it ended without a slice: rung, so that a slice returns its part of the chord and shows its end
-- (wake:<worker> is done by wake.lua.) At most `cap` workers at a time; what is left stays due.
-- ARGV: item, grace_ms, cap
-- Returns: rings (of parts)
local item, grace, cap = ARGV[1], ARGV[2], tonumber(ARGV[3])
local kind, id = string.match(item, '^(%a+):(.*)$')
local score = redis.call('ZSCORE', K.due, item)
local rings = {}
if not score or tonumber(score) > now then return rings end

local function was_unneeded(wid) return redis.call('HGET', K.worker(wid), 'filed_status') == 'stopped' end
local function stop_each(ids, status, reason)
  local left = cap
  for _, wid in ipairs(ids) do
    if left == 0 then return false end
    local verdict, anew = stop_one(wid, status, reason, grace)
    if anew then left = left - 1 end
    -- children of its own may outlive one that has ended: before its parent, or since its batch was joined without it
    if verdict == 'ended' and (kind == 'tree' or (kind == 'rest' and was_unneeded(wid))) then go_down(wid) end
  end
  return true
end

local done = true
if kind == 'batch' or kind == 'rest' then
  local open = redis.call('HGET', K.batch(id), 'state') == 'OPEN'
  if kind == 'rest' or open then
    local missing = redis.call('LRANGE', K.members(id), 0, -1)
    if kind == 'batch' then
      done = stop_each(missing, 'timeout', 'Worker did not end before the deadline of its batch.')
    else
      done = stop_each(missing, 'stopped', 'Worker was not needed: the policy of its batch was met.')
    end
  end
elseif kind == 'tree' then
  local children = redis.call('SMEMBERS', K.children(id))
  table.sort(children)   -- a set has no order: it may be another one in the next round
  done = stop_each(children, 'stopped', 'Worker was stopped with its parent.')
else
  redis.call('ZREM', K.due, item)
  local rec = read(id)
  if kind == 'part' and rec.state then return add_ring(rings, id, rec) end
  if kind == 'ring' then return rec.state == 'PENDING' and add_ring(rings, id, rec) or rings end
  if not rec.state or TERMINAL[rec.state] then return rings end
  local reason = 'Worker did not end before its deadline.'
  if kind == 'deadline' and rec.state == 'RUNNING' then
    if not rec.stop_status then tell_stop(id, rec, 'timeout', reason, grace) end
  elseif kind == 'deadline' then
    finish(id, rec, 'timeout', reason, '{}', 'timeout')
    owe_part(id, rec)
  elseif kind == 'kill' and rec.state == 'RUNNING' and rec.stop_status then
    finish(id, rec, rec.stop_status, rec.stop_reason, '{}', rec.stop_status)
    owe_part(id, rec)
  end
  defer_rings()
  return rings
end
defer_rings()
if done then redis.call('ZREM', K.due, item) end
return rings
