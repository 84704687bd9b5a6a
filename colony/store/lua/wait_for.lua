-- Read reports, and keep those workers from retention while somebody waits.
-- ARGV: ttl_ms, worker or batch id, …
-- Returns: for each its report or result (JSON), '' while it has none, or false when there is no such worker
local out = {}
for i = 2, #ARGV do
  local is_batch = string.sub(ARGV[i], 1, 1) == 'b'
  local values = redis.call('HMGET', is_batch and K.batch(ARGV[i]) or K.worker(ARGV[i]), 'state',
    is_batch and 'result' or 'report')
  if not values[1] or values[1] == 'STAGED' then
    out[#out + 1] = false
  else
    redis.call('ZADD', K.waited, now + tonumber(ARGV[1]), ARGV[i])
    out[#out + 1] = values[2] or ''
  end
end
return out
