-- Forget ended workers beyond the count and the age that are kept, oldest first; never one that
-- somebody waits for, whose batch is not joined, or that is still to be done: its children's stop, its part.
-- ARGV: max count, ttl_ms or '', cap
-- Returns: how many were forgotten
redis.call('ZREMRANGEBYSCORE', K.waited, '-inf', int(now))
local cap, forgotten = tonumber(ARGV[3]), 0
local surplus = math.max(0, redis.call('ZCARD', K.ended) - tonumber(ARGV[1]))
local oldest = redis.call('ZRANGE', K.ended, 0, math.min(cap, surplus + cap) - 1, 'WITHSCORES')
for i = 1, #oldest, 2 do
  local wid, ended = oldest[i], tonumber(oldest[i + 1])
  local old = ARGV[2] ~= '' and ended < now - tonumber(ARGV[2])
  if forgotten >= surplus and not old then break end
  local rec = redis.call('HMGET', K.worker(wid), 'state', 'batch')
  local state, batch = rec[1], rec[2]
  local kept = redis.call('ZSCORE', K.waited, wid)
    or redis.call('ZSCORE', K.due, 'tree:' .. wid) or redis.call('ZSCORE', K.due, 'part:' .. wid)
  if batch then
    kept = kept or redis.call('HGET', K.batch(batch), 'state') == 'OPEN' or redis.call('ZSCORE', K.waited, batch)
  end
  if not kept then
    if state then redis.call('ZREM', K.state(state), wid) end
    redis.call('ZREM', K.ended, wid)
    redis.call('DEL', K.worker(wid), K.parts(wid), K.children(wid))
    if batch and redis.call('HINCRBY', K.batch(batch), 'forgotten', 1) >= tonumber(redis.call('HGET', K.batch(batch), 'size')) then
      redis.call('DEL', K.batch(batch), K.members(batch), K.arrived(batch))
    end
    forgotten = forgotten + 1
  end
end
return forgotten
