-- Forget ended workers beyond the count and the age that are kept, oldest first; never one that somebody waits for,
-- whose batch is not joined, whose parent has not ended (it may ask for it), or with something still to be done: its
-- children's stop, its part, its background work. Such a one is looked at again after all others. What is in
-- quarantine is not looked at: it is not among the ended.
-- ARGV: max count, ttl_ms or '', cap
-- Returns: how many were forgotten
-- Its first write only removes, so a Redis that is out of memory lets it through: it makes room.
redis.call('ZREMRANGEBYSCORE', K.waited, '-inf', int(now))
local cap, forgotten = tonumber(ARGV[3]), 0
local surplus = math.max(0, redis.call('ZCARD', K.ended) - tonumber(ARGV[1]))
local oldest = redis.call('ZRANGE', K.ended, 0, math.min(cap, surplus + cap) - 1)
local function is_alive(parent)
  if not parent or parent == '' then return false end
  local state = redis.call('HGET', K.worker(parent), 'state')
  return state and not TERMINAL[state]
end
for _, wid in ipairs(oldest) do
  local rec = redis.call('HMGET', K.worker(wid), 'state', 'batch', 'ended')
  local state, batch = rec[1], rec[2]
  local old = ARGV[2] ~= '' and tonumber(rec[3] or '0') < now - tonumber(ARGV[2])
  if forgotten >= surplus and not old then break end
  local kept = redis.call('ZSCORE', K.waited, wid)
    or redis.call('ZSCORE', K.due, 'tree:' .. wid) or redis.call('ZSCORE', K.due, 'part:' .. wid)
    or redis.call('EXISTS', K.units(wid)) == 1
  if batch then
    local b = redis.call('HMGET', K.batch(batch), 'state', 'parent')
    kept = kept or b[1] == 'OPEN' or redis.call('ZSCORE', K.waited, batch) or is_alive(b[2])
  end
  if kept then
    redis.call('ZADD', K.ended, now, wid)
  else
    if state then redis.call('ZREM', K.state(state), wid) end
    redis.call('ZREM', K.ended, wid)
    redis.call('ZREM', K.listed, wid)
    redis.call('DEL', K.worker(wid), K.parts(wid), K.children(wid))
    if batch and redis.call('HINCRBY', K.batch(batch), 'forgotten', 1) >= tonumber(redis.call('HGET', K.batch(batch), 'size')) then
      redis.call('DEL', K.batch(batch), K.members(batch), K.arrived(batch))
    end
    forgotten = forgotten + 1
  end
end
return forgotten
