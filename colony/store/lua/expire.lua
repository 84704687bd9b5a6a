-- Do one due item: a deadline that passed, a stop that was not obeyed.
-- ARGV: item, grace_ms
-- Returns: 'done', or 'told' when a running worker was told
local item = ARGV[1]
local kind, wid = string.match(item, '^(%a+):(.*)$')
local score = redis.call('ZSCORE', K.due, item)
if not score or tonumber(score) > now then return 'done' end
redis.call('ZREM', K.due, item)
local rec = read(wid)
if not rec.state or TERMINAL[rec.state] then return 'done' end
if kind == 'deadline' then
  if rec.state == 'RUNNING' then
    if not rec.stop_status then tell_stop(wid, rec, 'timeout', 'Worker did not end before its deadline.', ARGV[2]) end
    return 'told'
  end
  finish(wid, rec, 'timeout', 'Worker did not end before its deadline.', '{}', 'timeout')
elseif kind == 'kill' and rec.state == 'RUNNING' and rec.stop_status then
  finish(wid, rec, rec.stop_status, rec.stop_reason, '{}', rec.stop_status)
end
return 'done'
