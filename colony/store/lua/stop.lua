-- Stop a worker: one that waits settles at once, one that runs is told to, and is ended after the grace time.
-- The stop of a worker goes down its tree, also of one that has ended and left children: a due item does the children
-- (lua/expire.lua). A time-out is of those alone who are late.
-- ARGV: worker id, status (stopped | timeout), reason, grace_ms ('0': end a running one at once, too)
-- Returns: 'unknown', 'ended' (it had ended before), 'settled' or 'told'
local verdict = stop_one(ARGV[1], ARGV[2], ARGV[3], ARGV[4])
local is_due = redis.call('ZSCORE', K.due, 'tree:' .. ARGV[1])
if verdict == 'ended' and ARGV[2] == 'stopped' and not is_due then go_down(ARGV[1]) end
defer_rings()
return verdict
