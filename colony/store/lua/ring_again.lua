-- Doorbells that nobody answered. Ask only after the queue was seen empty: until then PENDING means waiting.
-- ARGV: ring_again_ms, cap
-- Returns: rings (worker id, agent, batch, index, …); each waits twice as long for its next ring
local ring = {}
for _, wid in ipairs(redis.call('ZRANGEBYSCORE', K.doorbells, '-inf', int(now), 'LIMIT', 0, ARGV[2])) do
  local rec = read(wid)
  if rec.state == 'PENDING' then
    local rings = redis.call('HINCRBY', K.worker(wid), 'rings', 1)
    redis.call('HSET', K.worker(wid), 'rung', int(now))
    redis.call('ZADD', K.doorbells, now + tonumber(ARGV[1]) * 2 ^ math.min(rings, 6), wid)
    add_ring(ring, wid, rec)
  else
    redis.call('ZREM', K.doorbells, wid)
  end
end
if #ring > 0 then count('rung_again', #ring / 4) end
return ring
