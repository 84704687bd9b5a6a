-- Take the workers of a node whose lease ran out, a bounded number at a time. A node that renewed meanwhile keeps them.
-- ARGV: node, cap, ring_again_ms, '1' when its workers' deaths count (0: it leaves of its own will); they never do when
--       it was draining
-- Returns: {how many were taken, {rings}}
local node, died = ARGV[1], ARGV[4] == '1'
local lease = redis.call('ZSCORE', K.nodes, node)
if not lease or (died and tonumber(lease) > now) then return {0, {}} end
local counted = died and not redis.call('HGET', K.node(node), 'draining')
local taken, ring, held = 0, {}, redis.call('HGETALL', K.held(node))
for i = 1, math.min(#held, 2 * tonumber(ARGV[2])), 2 do
  local wid, token = held[i], held[i + 1]
  local rec = read(wid)
  taken = taken + 1
  if owns(rec, token) then
    local outcome = 'node ' .. node .. (counted and ' died' or died and ' ended in its drain' or ' handed it over')
    if release(wid, rec, outcome, counted, ARGV[3]) then add_ring(ring, wid, rec) else owe_part(wid, rec) end
  else
    redis.call('HDEL', K.held(node), wid)
  end
end
if redis.call('HLEN', K.held(node)) == 0 then
  redis.call('ZREM', K.nodes, node)
  redis.call('DEL', K.node(node), K.held(node))
  if died then emit('node_lost', nil, '{"node":' .. quote(node) .. '}') end
end
defer_rings()
return {taken, ring}
