-- What is due now? Asked by every node, answered to one per interval: no leader, no lock.
-- After Redis was away (nobody swept for half a lease, or it restarted) no node counts as dead for one full lease.
-- The server says itself which run it is: what a client remembers may be from before the restart.
-- ARGV: interval_ms, lease_ms, cap
-- Returns: {'wait'}, {'full'} (out of memory: no lease is renewed, so nobody counts as dead and nothing as due), or
--          {'go', dead nodes, due items, PENDING count, batches to join, '1' when notices are due}
local JOIN_AFTER_MS = 100   -- the slice that was the last is about to do it

-- The clock went back: what was written as due at once is due now, and a lease runs out a lease from now. Times that
-- somebody chose (deadlines, timers) stay.
local AT_ONCE = {tree = true, rest = true, part = true, ring = true}
local function bring_forward(swept, lease)
  local latest = now + lease - 1   -- before that of one who beats from now on (see rescue.lua)
  for _, node in ipairs(redis.call('ZRANGEBYSCORE', K.nodes, '(' .. int(latest), '+inf')) do
    redis.call('ZADD', K.nodes, latest, node)
  end
  for _, waiting in ipairs({K.joins, K.outbox}) do
    for _, item in ipairs(redis.call('ZRANGEBYSCORE', waiting, '(' .. int(now), '+inf')) do
      redis.call('ZADD', waiting, now, item)
    end
  end
  for _, item in ipairs(redis.call('ZRANGEBYSCORE', K.due, '(' .. int(now), int(swept + lease))) do
    if AT_ONCE[string.match(item, '^%a+')] then redis.call('ZADD', K.due, now, item) end
  end
end

local meta = redis.call('HMGET', K.meta, 'swept', 'run_id', 'hold_until', 'events')
local swept, lease = tonumber(meta[1] or '0'), tonumber(ARGV[2])
if was_within(swept, ARGV[1]) then return {'wait'} end
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local refused = redis.pcall('HSET', K.meta, 'swept', int(now), 'run_id', run_id)
if type(refused) == 'table' then
  return string.find(refused.err, 'used memory', 1, true) and {'full'} or refused
end
local hold, went_back = tonumber(meta[3] or '0'), swept > now
if meta[2] and meta[2] ~= run_id then
  local generation = redis.call('HINCRBY', K.meta, 'generation', 1)
  redis.call('HSET', K.meta, 'since:' .. int(generation), meta[4] or '0')
  hold = now + lease
  redis.call('HSET', K.meta, 'restarted', int(hold))   -- leases from before it are shorter (see rescue.lua)
  redis.call('HDEL', K.meta, 'quiet_from')
elseif went_back or swept > 0 and now - swept > lease / 2 then
  -- For a whole lease, or Redis was away for no longer than a node that ends tries to reach it (see rescue.lua).
  if went_back or now - swept > lease then
    redis.call('HSET', K.meta, 'quiet_from', int(swept))
  elseif hold <= now then
    redis.call('HDEL', K.meta, 'quiet_from')   -- that was another time
  end
  hold = now + lease
end
if went_back then bring_forward(swept, lease) end
redis.call('HSET', K.meta, 'hold_until', int(hold))
for _, cap in ipairs(redis.call('ZRANGE', K.lines, 0, 9)) do   -- the net under it all: places that nobody filled
  redis.call('ZADD', K.lines, now, cap)
  call_next(cap)
end
admit()
defer_rings()
local dead = {}
if hold <= now then dead = redis.call('ZRANGEBYSCORE', K.nodes, '-inf', int(now), 'LIMIT', 0, ARGV[3]) end
return {'go', dead, redis.call('ZRANGEBYSCORE', K.due, '-inf', int(now), 'LIMIT', 0, ARGV[3]),
  redis.call('ZCARD', K.state('PENDING')),
  redis.call('ZRANGEBYSCORE', K.joins, '-inf', int(now - JOIN_AFTER_MS), 'LIMIT', 0, ARGV[3]),
  redis.call('ZCOUNT', K.outbox, '-inf', int(now)) > 0 and '1' or '0'}
