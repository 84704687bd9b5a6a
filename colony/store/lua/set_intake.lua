-- Open or close the intake of new work. Idempotent; a change is told.
-- ARGV: '1' to pause, '0' to resume
-- Returns: 'ok', or 'unknown_colony'
local meta = redis.call('HMGET', K.meta, 'id', 'paused')
if not meta[1] then return 'unknown_colony' end
if (meta[2] or '0') ~= ARGV[1] then
  redis.call('HSET', K.meta, 'paused', ARGV[1])
  emit(ARGV[1] == '1' and 'intake_paused' or 'intake_resumed', nil, '{}')
end
return 'ok'
