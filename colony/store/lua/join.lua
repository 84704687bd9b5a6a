-- Join a batch: once, and only when all its members are in or its policy is met. Any number may try.
-- The consolidated result is ids, statuses and counts, in input order; reports are read in pages. It is settled here how
-- each member ends, also of those that have not: one that has filed a report ends with that one, any other as stopped,
-- whatever it comes to meanwhile (see settle.lua).
-- ARGV: batch, ring_again_ms
-- Returns: {'joined', {rings of the parent that it wakes, of queued siblings that it makes place for}} the first
--          time, {'done'} after that, {'open', in, size} while members are missing, {'unknown'}
local batch = ARGV[1]
local b = redis.call('HMGET', K.batch(batch), 'state', 'size', 'need', 'good', 'parent', 'on_complete', 'policy', 'correlation', 'background', 'cause')
if not b[1] then redis.call('ZREM', K.joins, batch) return {'unknown'} end
if b[1] ~= 'OPEN' then redis.call('ZREM', K.joins, batch) return {'done'} end
local size, inside = tonumber(b[2]), redis.call('SCARD', K.arrived(batch))
if inside < size and tonumber(b[4] or '0') < tonumber(b[3]) then return {'open', inside, size} end

-- The policy is met without it: its report is filed now, and it is stopped soon.
local function settle_unneeded(wid, filed)
  if filed then
    redis.call('HDEL', K.worker(wid), 'filed_provisional')
    return filed
  end
  redis.call('HSET', K.worker(wid), 'filed_status', 'stopped', 'filed_data', '{}', 'filed_error', 'not_needed',
    'filed_summary', 'Worker was not needed: the policy of its batch was met.')
  return 'stopped'
end
local counts, members, rest = {}, {}, false
for i, wid in ipairs(redis.call('LRANGE', K.members(batch), 0, -1)) do
  local known = redis.call('HMGET', K.worker(wid), 'status', 'filed_status')
  local status = known[1]
  if not status then status, rest = settle_unneeded(wid, known[2]), true end
  counts[status] = (counts[status] or 0) + 1
  members[i] = '["' .. wid .. '","' .. status .. '"]'
end
local result = '{"batch_id":' .. quote(batch) .. ',"size":' .. int(size) .. ',"policy":' .. quote(b[7])
  .. ',"need":' .. int(math.min(size, tonumber(b[3])))
  .. ',"counts":' .. cjson.encode(counts) .. ',"joined_at":' .. int(now)
  .. ',"correlation_id":' .. text_or_null(b[8]) .. '}'
redis.call('HSET', K.batch(batch), 'state', 'JOINED', 'joined', int(now), 'result', result,
  'statuses', '[' .. table.concat(members, ',') .. ']')
redis.call('ZREM', K.joins, batch)
redis.call('ZREM', K.due, 'batch:' .. batch)
if rest then redis.call('ZADD', K.due, now, 'rest:' .. batch) else redis.call('DEL', K.arrived(batch)) end
count('joined')
emit('batch_completed', nil, result, b[10])
redis.call('PUBLISH', K.reports, result)
if b[6] and b[6] ~= '' then tell_producer('batch', batch, b[6], result) end
local rings = {}
-- Start the parent's queued background work, first come first served, while there is a place.
local function start_queued(units, most)
  while redis.call('ZCOUNT', units, 0, 0) < most do
    local following = redis.call('ZRANGE', units, '(0', '+inf', 'BYSCORE', 'LIMIT', 0, 1)[1]
    if not following then return end
    redis.call('ZADD', units, 0, following)
    for _, wid in ipairs(redis.call('LRANGE', K.members(following), 0, -1)) do
      local rec = read(wid)
      local queues = rec.state == 'PARKED' and redis.call('HGET', K.worker(wid), 'waits_for') == 'siblings'
      if queues and make_pending(wid, rec, ARGV[2]) then add_ring(rings, wid, rec) end
    end
  end
end
if b[5] and b[5] ~= '' then
  local parent = read(b[5])
  local waits = ' ' .. (parent.waits_batch or '') .. ' '
  if parent.state == 'PARKED' and string.find(waits, ' ' .. batch .. ' ', 1, true) then
    if make_pending(b[5], parent, ARGV[2]) then add_ring(rings, b[5], parent) end
  end
  if b[9] then
    redis.call('ZREM', K.units(b[5]), batch)
    start_queued(K.units(b[5]), tonumber(b[9]))
  end
end
return {'joined', rings}
