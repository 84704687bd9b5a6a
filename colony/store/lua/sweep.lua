-- What is due now? Asked by every node, answered to one per interval: no leader, no lock.
-- After Redis was away (nobody swept for half a lease, or it restarted) no node counts as dead for one full lease.
-- ARGV: interval_ms, lease_ms, run id of the server, cap
-- Returns: {'wait'}, or {'go', dead nodes, due items, PENDING count}
local meta = redis.call('HMGET', K.meta, 'swept', 'run_id', 'hold_until', 'events')
local swept, lease = tonumber(meta[1] or '0'), tonumber(ARGV[2])
if now - swept < tonumber(ARGV[1]) and meta[2] == ARGV[3] then return {'wait'} end
redis.call('HSET', K.meta, 'swept', int(now), 'run_id', ARGV[3])
local hold = tonumber(meta[3] or '0')
if meta[2] and meta[2] ~= ARGV[3] then
  local generation = redis.call('HINCRBY', K.meta, 'generation', 1)
  redis.call('HSET', K.meta, 'since:' .. int(generation), meta[4] or '0')
  hold = now + lease
elseif swept > 0 and now - swept > lease / 2 then
  hold = now + lease
end
redis.call('HSET', K.meta, 'hold_until', int(hold))
local dead = {}
if hold <= now then dead = redis.call('ZRANGEBYSCORE', K.nodes, '-inf', int(now), 'LIMIT', 0, ARGV[4]) end
return {'go', dead, redis.call('ZRANGEBYSCORE', K.due, '-inf', int(now), 'LIMIT', 0, ARGV[4]),
  redis.call('ZCARD', K.state('PENDING'))}
