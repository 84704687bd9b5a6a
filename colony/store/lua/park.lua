-- Let a running worker wait without a slot. It wakes at its time.
-- ARGV: worker id, token, reason (time), wake in ms
-- Returns: 'parked' (also for the same request again), 'stale', or the status it was told to stop with
local wid, token, reason = ARGV[1], ARGV[2], ARGV[3]
local rec = read(wid)
if rec.state == 'PARKED' and redis.call('HGET', K.worker(wid), 'parked_by') == token then return 'parked' end
if not owns(rec, token) then count('stale_refused'); return 'stale' end
if rec.stop_status then return rec.stop_status end
close_attempt(wid, rec, 'parked: ' .. reason)
enter(wid, rec, 'PARKED')
redis.call('HSET', K.worker(wid), 'waits_for', reason, 'parked_by', token)
redis.call('ZADD', K.due, now + tonumber(ARGV[4]), 'wake:' .. wid)
emit('execution_paused', wid, '{"reason":' .. quote(reason) .. '}')
return 'parked'
