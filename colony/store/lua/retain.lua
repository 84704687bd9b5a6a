-- Forget ended workers beyond the count and the age that are kept, oldest first; never one that somebody waits for.
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
  if not redis.call('ZSCORE', K.waited, wid) then
    local state = redis.call('HGET', K.worker(wid), 'state')
    if state then redis.call('ZREM', K.state(state), wid) end
    redis.call('ZREM', K.ended, wid)
    redis.call('DEL', K.worker(wid), K.parts(wid))
    forgotten = forgotten + 1
  end
end
return forgotten
