-- Renew a node's lease, and tell it what the store thinks it runs. Joining is the first beat.
-- ARGV: node, lease_ms, '1' to join, then field, value, … of what the node says of itself
-- Returns: {'ok', worker id, token, …}, or {'lost'} when the lease was taken away, or the data of the colony are gone
local JOIN_RINGS = 1000
local node, lease = ARGV[1], redis.call('ZSCORE', K.nodes, ARGV[1])
if ARGV[3] ~= '1' and not (lease and redis.call('HEXISTS', K.meta, 'id') == 1) then return {'lost'} end
if not lease then
  redis.call('HSET', K.node(node), 'started_at', int(now))
  local drained = redis.call('GET', K.drained(node))   -- told so before it lost its lease
  if drained then redis.call('HSET', K.node(node), 'draining', drained) end
  emit('node_joined', nil, '{"node":' .. quote(node) .. '}')
  -- Who was rung in vain while no node was there, or none of its version, need not wait for its next turn.
  for _, wid in ipairs(redis.call('ZREVRANGE', K.doorbells, 0, JOIN_RINGS - 1)) do
    if tonumber(redis.call('HGET', K.worker(wid), 'rings') or '0') > 0 then
      redis.call('ZADD', K.doorbells, 'LT', now, wid)
    end
  end
end
redis.call('ZADD', K.nodes, now + tonumber(ARGV[2]), node)
redis.call('HSET', K.node(node), unpack(ARGV, 4))
return {'ok', redis.call('HGETALL', K.held(node))}
