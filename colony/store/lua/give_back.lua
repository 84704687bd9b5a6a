-- Return a claim: a hand-over (not counted), or a slice its node finds it has lost (counted as a death).
-- ARGV: worker id, token, why, '1' when it counts, ring_again_ms
-- Returns: {'pending', {ring}} to be rung, {'ended', batch to join or ''} (told to stop, or lost too often), or {'stale'};
--          the same for the same request again, until somebody else claims
local wid = ARGV[1]
local rec = read(wid)
if not owns(rec, ARGV[2]) then
  if redis.call('HGET', K.worker(wid), 'given_back_by') == ARGV[2] then
    if rec.state == 'PENDING' then return {'pending', add_ring({}, wid, rec)} end
    if TERMINAL[rec.state] then return {'ended', ''} end
  end
  return {'stale'}
end
redis.call('HSET', K.worker(wid), 'given_back_by', ARGV[2])
if release(wid, rec, ARGV[3], ARGV[4] == '1', ARGV[5]) then return {'pending', add_ring({}, wid, rec)} end
defer_rings()
if ARGV[4] == '1' then owe_part(wid, rec) end   -- its slice is lost: nobody returns its part of the chord
return {'ended', joinable}
