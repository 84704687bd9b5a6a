-- Make a parked worker ready to be claimed. The caller rings.
-- ARGV: worker id, ring_again_ms
-- Returns: the ring to be rung, or nothing when it was not parked
local rec = read(ARGV[1])
redis.call('ZREM', K.due, 'wake:' .. ARGV[1])
if rec.state ~= 'PARKED' then return {} end
if not make_pending(ARGV[1], rec, ARGV[2]) then return {} end
return add_ring({}, ARGV[1], rec)
