-- Let a running worker wait without a slot: for a time, or for one of some batches of its children to be joined, and
-- then not beyond its soft deadline.
-- ARGV: worker id, token, reason (time | children), wake in ms (time) or the batches with a space between (children),
--       ring_again_ms
-- Returns: {'parked', rings of those it made place for} (also for the same request again), {'ready', {ring}} when what it waits for is there already
--          (it is PENDING then), {'stale'}, or {'told', the status it was told to stop with}
local wid, token, reason = ARGV[1], ARGV[2], ARGV[3]
local rec = read(wid)
if redis.call('HGET', K.worker(wid), 'parked_by') == token then
  if rec.state == 'PARKED' then return {'parked', {}} end
  if rec.state == 'PENDING' then return {'ready', add_ring({}, wid, rec)} end
end
if not owns(rec, token) then count('stale_refused'); return {'stale'} end
if rec.stop_status then return {'told', rec.stop_status} end
close_attempt(wid, rec, 'parked: ' .. reason)
redis.call('HSET', K.worker(wid), 'parked_by', token)
local function one_is_in()
  for batch in string.gmatch(ARGV[4], '%S+') do
    if redis.call('HGET', K.batch(batch), 'state') ~= 'OPEN' then return true end
  end
end
if reason == 'children' and one_is_in() then
  make_pending(wid, rec, ARGV[5])
  return {'ready', add_ring({}, wid, rec)}
end
enter(wid, rec, 'PARKED')
redis.call('HSET', K.worker(wid), 'waits_for', reason)
if reason == 'children' then
  redis.call('HSET', K.worker(wid), 'waits_batch', ARGV[4])
  local soft_ms = redis.call('HGET', K.worker(wid), 'soft_ms')
  local soft = soft_ms and tonumber(rec.created) + tonumber(soft_ms)
  if soft and soft > now then redis.call('ZADD', K.due, soft, 'wake:' .. wid) end
else
  redis.call('ZADD', K.due, now + tonumber(ARGV[4]), 'wake:' .. wid)
end
emit('execution_paused', wid, '{"reason":' .. quote(reason) .. '}')
admit()
return {'parked', admitted}
