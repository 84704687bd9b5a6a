-- Read reports, and keep those workers from retention while somebody waits.
-- ARGV: ttl_ms, worker id, …
-- Returns: per worker: its report (JSON), '' while it has none, or false when there is no such worker
local out = {}
for i = 2, #ARGV do
  local values = redis.call('HMGET', K.worker(ARGV[i]), 'state', 'report')
  if not values[1] or values[1] == 'STAGED' then
    out[#out + 1] = false
  else
    redis.call('ZADD', K.waited, now + tonumber(ARGV[1]), ARGV[i])
    out[#out + 1] = values[2] or ''
  end
end
return out
