-- Set a message aside that is not ours or malformed; the newest are kept.
-- ARGV: {"reason": …, "message": …} (JSON), how many are kept, the counter
-- Returns: 'ok'
pass_when_full()   -- or a janitor that has one to keep would not get to its retention
redis.call('LPUSH', K.rejected, '{"at":' .. int(now) .. ',' .. string.sub(ARGV[1], 2))
redis.call('LTRIM', K.rejected, 0, tonumber(ARGV[2]) - 1)
count(ARGV[3])
return 'ok'
