-- End a worker that its owner ran to the end. First wins; a late result is kept as an event. So is that of a member
-- without which its batch was joined: the join has settled that it was stopped.
-- ARGV: worker id, token, status, summary, data (JSON), error or ''
-- Returns: {'settled', a batch that is to be joined or '', rings of those it made place for}
--          (also for the same request again) or {'stale'}
local wid, token = ARGV[1], ARGV[2]
local rec = read(wid)
if not owns(rec, token) then
  if rec.state and TERMINAL[rec.state] then
    if redis.call('HGET', K.worker(wid), 'settled_by') == token then return {'settled', '', {}} end
    emit('late_result', wid, '{"status":' .. quote(ARGV[3]) .. '}')
  end
  count('stale_refused')
  return {'stale'}
end
redis.call('HSET', K.worker(wid), 'settled_by', token)
local status = ARGV[3]
if rec.filed_status == 'stopped' then
  if redis.call('HSETNX', K.worker(wid), 'overruled', status) == 1 then
    emit('late_result', wid, '{"status":' .. quote(status) .. '}')
  end
  status = 'stopped'
end
finish(wid, rec, status, ARGV[4], ARGV[5], ARGV[6])
return {'settled', joinable, admitted}
