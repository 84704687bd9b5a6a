-- Drain a node: it is refused every claim from now on, hands over what it runs, and ends. What is taken from it counts
-- as no death. Again, it changes nothing. The flag stands until the node has left, and is kept for one that loses its lease
-- first (frozen, cut off) and comes back.
-- ARGV: node, '1' when it does not say so itself, but another one who has its word
-- Returns: 'ok', or 'unknown' when no such node has a lease
local KEPT_MS = 3600000
if not redis.call('ZSCORE', K.nodes, ARGV[1]) then return 'unknown' end
if redis.call('HSETNX', K.node(ARGV[1]), 'draining', int(now)) == 1 and ARGV[2] == '1' then
  redis.call('HSET', K.node(ARGV[1]), 'by_word', '1')
end
redis.call('SET', K.drained(ARGV[1]), int(now), 'PX', KEPT_MS, 'NX')
redis.call('PUBLISH', K.hints, 'drain ' .. ARGV[1])
return 'ok'
