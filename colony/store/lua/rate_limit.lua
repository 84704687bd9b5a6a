-- Count a request in its buckets, in all of them or in none: at most `limit` places within any window, in each bucket,
-- fleet-wide. What was counted is not counted again: it is asked again under its idempotency key, or sent twice.
-- ARGV: 1 limit, 2 window (µs), 3 how long a request is the same when it is asked again (µs), 4 most buckets of the colony,
--       5 the bucket that is shared beyond them, 6 the request's id, then per bucket: name, how many places
-- Returns: {0}, or {position of the first bucket that is full (from 1), ms until there is room; -1: it asks for too many}
local limit, window, same, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local at = tonumber(clock[1]) * 1e6 + tonumber(clock[2])
for _, old in ipairs(redis.call('ZRANGEBYSCORE', K.rates, '-inf', int(at), 'LIMIT', 0, 100)) do redis.call('ZREM', K.rates, old) end

local known, fresh = redis.call('ZCARD', K.rates), 0
local function bucket_of(name)   -- and how a request is called in it
  if redis.call('ZSCORE', K.rates, name) then return name, ARGV[6] end
  if known + fresh >= most then return ARGV[5], ARGV[6] .. ':' .. name end
  fresh = fresh + 1
  return name, ARGV[6]
end

local need, wanted = {}, {}
for i = 7, #ARGV, 2 do
  local n = tonumber(ARGV[i + 1])
  local name, request = bucket_of(ARGV[i])
  local bucket = K.rate(name)
  redis.call('ZREMRANGEBYSCORE', bucket, '-inf', int(at - window))
  redis.call('ZREMRANGEBYSCORE', bucket, '(' .. int(at), '+inf')   -- counted before the clock went back
  local first, last = redis.call('ZSCORE', bucket, request .. '#1'), redis.call('ZSCORE', bucket, request .. '#' .. n)
  if not (first and last and tonumber(first) > at - same) then
    need[name] = (need[name] or 0) + n
    local over = redis.call('ZCARD', bucket) + need[name] - limit
    if over > 0 then
      if need[name] > limit then return {(i - 5) / 2, -1} end
      local leaves = redis.call('ZRANGE', bucket, over - 1, over - 1, 'WITHSCORES')[2]
      return {(i - 5) / 2, math.ceil((tonumber(leaves) + window - at) / 1000)}
    end
    wanted[#wanted + 1] = {name = name, bucket = bucket, request = request, n = n}
  end
end

for _, w in ipairs(wanted) do
  for j = 1, w.n do
    local place = w.request .. '#' .. j
    local before = redis.call('ZSCORE', w.bucket, place)   -- of one that is asked again too late to be the same
    if before then redis.call('ZADD', w.bucket, before, place .. '@' .. before) end
    redis.call('ZADD', w.bucket, int(at), place)
  end
  redis.call('PEXPIRE', w.bucket, math.ceil(window / 1000))
  redis.call('ZADD', K.rates, int(at + window), w.name)
end
return {0}
