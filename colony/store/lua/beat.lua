-- Renew a node's lease, and tell it what the store thinks it runs. Joining is the first beat.
-- ARGV: node, lease_ms, '1' to join, then field, value, … of what the node says of itself
-- Returns: {'ok', worker id, token, …}, or {'lost'} when the lease was taken away
local node, lease = ARGV[1], redis.call('ZSCORE', K.nodes, ARGV[1])
if not lease then
  if ARGV[3] ~= '1' then return {'lost'} end
  redis.call('HSET', K.node(node), 'started_at', int(now))
  emit('node_joined', nil, '{"node":' .. quote(node) .. '}')
end
redis.call('ZADD', K.nodes, now + tonumber(ARGV[2]), node)
redis.call('HSET', K.node(node), unpack(ARGV, 4))
return {'ok', redis.call('HGETALL', K.held(node))}
