-- Stop a worker: one that waits settles at once, one that runs is told to, and is ended after the grace time.
-- ARGV: worker id, status (stopped | timeout), reason, grace_ms ('0': end a running one at once, too)
-- Returns: 'unknown', 'ended' (it had ended before), 'settled' or 'told'
local wid, status, reason = ARGV[1], ARGV[2], ARGV[3]
local rec = read(wid)
if not rec.state or rec.state == 'STAGED' then return 'unknown' end
if TERMINAL[rec.state] then return 'ended' end
if rec.state == 'RUNNING' and ARGV[4] ~= '0' then
  if not rec.stop_status then tell_stop(wid, rec, status, reason, ARGV[4]) end
  return 'told'
end
local was_running = rec.state == 'RUNNING'
finish(wid, rec, status, reason, '{}', status)
if was_running then redis.call('PUBLISH', K.hints, 'stop ' .. wid) end
return 'settled'
