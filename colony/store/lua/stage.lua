-- Put records of a large accept aside. Not yet workers: unclaimable, unlisted, gone in a minute unless committed.
-- ARGV: batch, ttl_ms, how many were staged before, then per worker: id, number of values, field, value, …
-- Returns: how many are staged in all (the same for the same request again)
local state = redis.call('HGET', K.worker(ARGV[4]), 'state')
if state and state ~= 'STAGED' then return 0 end   -- a late duplicate: these were committed
local staged = redis.call('LLEN', K.staged(ARGV[1]))
if staged > tonumber(ARGV[3]) then return staged end
local i = 4
while i <= #ARGV do
  local wid, n = ARGV[i], tonumber(ARGV[i + 1])
  redis.call('HSET', K.worker(wid), 'state', 'STAGED', unpack(ARGV, i + 2, i + 1 + n))
  redis.call('PEXPIRE', K.worker(wid), ARGV[2])
  redis.call('RPUSH', K.staged(ARGV[1]), wid)
  i = i + 2 + n
end
redis.call('PEXPIRE', K.staged(ARGV[1]), ARGV[2])
return redis.call('LLEN', K.staged(ARGV[1]))
