-- Append what a running worker has paid for. Written once however often it is sent.
-- ARGV: 1 worker id, 2 token, 3 length of the conversation before, 4 requests, 5 tokens, 6 cost or '',
--       7 filed status or '', 8 filed summary, 9 filed data (JSON), 10 filed error or '', 11 '1' where that report is
--       provisional, 12 number of parts, parts…, then type, data (JSON) of each event
-- Returns: {'ok'}, {'stop', status} when the worker has been told to stop, or {'stale'}
local wid, before, parts = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[12])
local rec = read(wid)
if not owns(rec, ARGV[2]) then
  -- a report that comes after the end is kept as an event; one that the worker had filed itself is no news
  if TERMINAL[rec.state] and ARGV[7] ~= '' and not rec.filed_status then
    emit('late_result', wid, '{"status":' .. quote(ARGV[7]) .. '}')
  end
  count('stale_refused')
  return {'stale'}
end
local length = redis.call('LLEN', K.parts(wid))
local again = false
if parts == 0 then   -- nothing is appended: such a step is known by its claim and place
  local place = ARGV[2] .. ':' .. before
  again = redis.call('HGET', K.worker(wid), 'noted') == place
  redis.call('HSET', K.worker(wid), 'noted', place)
end
if length == before and not again then
  if parts > 0 then redis.call('RPUSH', K.parts(wid), unpack(ARGV, 13, 12 + parts)) end
  if ARGV[4] ~= '0' then
    redis.call('HINCRBY', K.worker(wid), 'requests', ARGV[4])
    redis.call('HINCRBY', K.worker(wid), 'tokens', ARGV[5])
    if ARGV[6] ~= '' then redis.call('HINCRBYFLOAT', K.worker(wid), 'cost', ARGV[6]) end
  end
  if ARGV[7] ~= '' and (not rec.filed_status or rec.filed_provisional) then
    redis.call('HSET', K.worker(wid), 'filed_status', ARGV[7], 'filed_summary', ARGV[8], 'filed_data', ARGV[9],
      'filed_error', ARGV[10])
    if ARGV[11] == '1' then
      redis.call('HSET', K.worker(wid), 'filed_provisional', 1)
    else
      redis.call('HDEL', K.worker(wid), 'filed_provisional')
    end
  end
  local is_late = ARGV[7] ~= '' and rec.filed_status == 'stopped'   -- its batch was joined without it
  if is_late and redis.call('HSETNX', K.worker(wid), 'overruled', ARGV[7]) == 1 then
    emit('late_result', wid, '{"status":' .. quote(ARGV[7]) .. '}')
  end
  for i = 13 + parts, #ARGV, 2 do emit(ARGV[i], wid, ARGV[i + 1]) end
elseif length ~= before + parts then
  count('stale_refused')
  return {'stale'}
end
if rec.stop_status then return {'stop', rec.stop_status} end
return {'ok'}
