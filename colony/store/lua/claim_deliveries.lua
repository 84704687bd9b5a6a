-- Take deliveries that are due, each for a lease: whoever dies with one leaves it to the next. Lanes take turns, and
-- of one lane only so many are being sent at once, by all nodes together. Those of a paused subscription are put off.
-- Sent twice, it takes others: the first ones come again when their lease is over.
-- ARGV: token, lease_ms, how many, how many of one lane
-- Returns: {now_ms, {id, type, at, data, to, subscription, attempt, …}}
local HOLD_MS, LOOK_AHEAD = 5000, 500
local token, till, left, most = ARGV[1], now + tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local taken = {}

local function take(id, lane)
  local d = redis.call('HMGET', K.delivery(id), 'type', 'at', 'data', 'to', 'subscription')
  local to = d[4]
  if d[5] ~= '' then
    local s = redis.call('HMGET', K.subscription(d[5]), 'enabled', 'to')
    if s[1] == '0' then
      redis.call('ZADD', K.lane(lane), now + HOLD_MS, id)
      return
    end
    to = s[2] or to   -- where it goes now
  end
  redis.call('ZADD', K.lane(lane), till, id)
  redis.call('ZADD', K.sending(lane), till, id)
  redis.call('HSET', K.delivery(id), 'token', token)
  for _, value in ipairs({id, d[1], d[2], d[3], to, d[5], redis.call('HINCRBY', K.delivery(id), 'attempts', 1)}) do
    taken[#taken + 1] = value
  end
  left = left - 1
end

for _, lane in ipairs(redis.call('ZRANGEBYSCORE', K.lanes, '-inf', int(now), 'LIMIT', 0, left)) do
  if left == 0 then break end
  redis.call('ZREMRANGEBYSCORE', K.sending(lane), '-inf', int(now))
  local free = math.min(most - redis.call('ZCARD', K.sending(lane)), left)
  local enough = left - math.max(free, 0)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.lane(lane), '-inf', int(now), 'LIMIT', 0, LOOK_AHEAD)) do
    if left == enough then break end
    take(id, lane)
  end
  if redis.call('ZCARD', K.sending(lane)) >= most then   -- until one of them has ended, or its lease
    redis.call('ZADD', K.lanes, redis.call('ZRANGE', K.sending(lane), 0, 0, 'WITHSCORES')[2], lane)
  else
    look_at(lane)
  end
end
return {int(now), taken}
