-- Stop a worker: one that waits settles at once, one that runs is told to, and is ended after the grace time.
-- The stop of a worker goes down its tree: a due item does the children (lua/expire.lua).
-- ARGV: worker id, status (stopped | timeout), reason, grace_ms ('0': end a running one at once, too)
-- Returns: 'unknown', 'ended' (it had ended before), 'settled' or 'told'
local verdict = stop_one(ARGV[1], ARGV[2], ARGV[3], ARGV[4])
defer_rings()
return verdict
