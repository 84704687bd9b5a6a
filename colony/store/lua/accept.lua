-- Accept workers: all of them or none. Record, indexes, event; the doorbell is the caller's next step.
-- ARGV: 1 idempotency key or '', 2 its ttl_ms, 3 '1' when a live node is required, 4 ring_again_ms,
--       5 deadline 'in:<ms>' | 'at:<ms>' | '', 6 not before (same form), 7 staged batch or '', 8 how many workers,
--       then per worker: id, number of values, field, value, …   (nothing more when staged)
-- Returns: {'accepted', 'now' | 'later'} (also for the same request again), {'known', {id, …}} for a known
--          idempotency key (a list of its own: 10,000 ids are more than unpack can take), or
--          {'unknown_colony'} | {'paused'} | {'no_nodes'} | {'full', pending, max} | {'stage_lost'}
local ids, n = {}, tonumber(ARGV[8])
if ARGV[7] ~= '' then
  ids = redis.call('LRANGE', K.staged(ARGV[7]), 0, -1)
else
  local i = 9
  while i <= #ARGV do ids[#ids + 1] = ARGV[i]; i = i + 2 + tonumber(ARGV[i + 1]) end
end

local first = redis.call('HGET', K.worker(ARGV[7] ~= '' and ARGV[7] or ids[1]), 'state')
if first and first ~= 'STAGED' then return {'accepted', first == 'PARKED' and 'later' or 'now'} end
local key = ARGV[1]
if key ~= '' then
  local expiry = redis.call('ZSCORE', K.idem, key)
  if expiry and tonumber(expiry) > now then
    return {'known', cjson.decode(redis.call('HGET', K.idem_ids, key))}
  end
end
-- The first record was staged first and is the first to expire, before the list does.
if #ids ~= n or (ARGV[7] ~= '' and not first) then return {'stage_lost'} end

local meta = redis.call('HMGET', K.meta, 'id', 'paused', 'max_pending', 'idempotency_max_keys', 'version', 'default_agent')
if not meta[1] then return {'unknown_colony'} end
if meta[2] == '1' then return {'paused'} end
if ARGV[3] == '1' and redis.call('ZCOUNT', K.nodes, int(now), '+inf') == 0 then return {'no_nodes'} end
local pending, max = redis.call('ZCARD', K.state('PENDING')), tonumber(meta[3] or '100000')
if pending + n > max then return {'full', pending, max} end

local function moment(spec)
  if spec == '' then return nil end
  local ms = tonumber(string.sub(spec, 4))
  if string.sub(spec, 1, 3) == 'in:' then return now + ms end
  return ms
end
local deadline, not_before = moment(ARGV[5]), moment(ARGV[6])
local later = not_before and not_before > now

local i = 9
for _, wid in ipairs(ids) do
  local record = K.worker(wid)
  if ARGV[7] == '' then
    local values = tonumber(ARGV[i + 1])
    redis.call('HSET', record, unpack(ARGV, i + 2, i + 1 + values))
    i = i + 2 + values
  else
    redis.call('PERSIST', record)
  end
  redis.call('HSET', record, 'state', later and 'PARKED' or 'PENDING', 'created', int(now), 'since', int(now),
    'version', meta[5] or '', 'rung', int(now))
  redis.call('HSETNX', record, 'agent', meta[6] or 'agent')
  if deadline then
    redis.call('HSET', record, 'deadline', int(deadline))
    redis.call('ZADD', K.due, deadline, 'deadline:' .. wid)
  end
  if later then
    redis.call('HSET', record, 'not_before', int(not_before), 'waits_for', 'time')
    redis.call('ZADD', K.due, not_before, 'wake:' .. wid)
    redis.call('ZADD', K.state('PARKED'), now, wid)
  else
    redis.call('ZADD', K.state('PENDING'), now, wid)
    redis.call('ZADD', K.doorbells, now + tonumber(ARGV[4]), wid)
  end
end
if ARGV[7] ~= '' then redis.call('DEL', K.staged(ARGV[7])) end

if key ~= '' then
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', K.idem, '-inf', int(now), 'LIMIT', 0, 100)) do
    redis.call('ZREM', K.idem, old); redis.call('HDEL', K.idem_ids, old)
  end
  if redis.call('ZCARD', K.idem) >= tonumber(meta[4] or '10000') then
    local oldest = redis.call('ZPOPMIN', K.idem)
    redis.call('HDEL', K.idem_ids, oldest[1])
  end
  redis.call('ZADD', K.idem, now + tonumber(ARGV[2]), key)
  redis.call('HSET', K.idem_ids, key, cjson.encode(ids))
end
count('accepted', n)
local named = {}
for j = 1, math.min(n, 100) do named[j] = ids[j] end
emit('execution_accepted', ids[1], '{"count":' .. n .. ',"worker_ids":' .. cjson.encode(named) .. '}')
return {'accepted', later and 'later' or 'now'}
