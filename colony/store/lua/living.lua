-- The workers that have not ended, all at this one moment, so that none is missed while it goes from state to state.
-- Returns: {those that are PARKED}, {PENDING}, {RUNNING}, each the longest there first
local out = {}
for i, state in ipairs({'PARKED', 'PENDING', 'RUNNING'}) do out[i] = redis.call('ZRANGE', K.state(state), 0, -1) end
return out
