-- Count something that was refused before it reached a transition.
-- ARGV: what (snake_case)
-- Returns: 'ok', also for a colony that is unknown: there is nothing to count in
if redis.call('HEXISTS', K.meta, 'id') == 1 then count(ARGV[1]) end
return 'ok'
