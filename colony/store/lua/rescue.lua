-- Take the workers of a node whose lease ran out, a bounded number at a time. A node that renewed meanwhile keeps them.
-- ARGV: node, cap, ring_again_ms, '1' when its workers' deaths count (0: it leaves of its own will); they never do when
--       it was draining, nor when it may have ended well while Redis was away;
--       '1' when its disk says that it was not told to end
-- Returns: {how many were taken, {rings}}
local COUNTED_MS = 604800000   -- how long a death that was counted can be taken back (see exonerate.lua)
local node, died = ARGV[1], ARGV[4] == '1'
local lease = redis.call('ZSCORE', K.nodes, node)
if not lease or (died and tonumber(lease) > now) then return {0, {}} end
if not died then
  pass_when_full()
  redis.call('HSETNX', K.node(node), 'draining', int(now))   -- also for what it cannot hand over any more
end

-- Whether it was last heard before Redis was away. Nobody can say how such a node ended: it may have drained, and found
-- nobody to hand over to. That nobody swept says little by itself. A node from before that lives would have swept, so it
-- had no Redis either; where there is none the only node may have died, which its disk can tell.
local function ended_unseen()
  local meta = redis.call('HMGET', K.meta, 'restarted', 'hold_until', 'quiet_from')
  if tonumber(lease) < tonumber(meta[1] or '0') then return true end
  if not meta[3] or tonumber(lease) >= tonumber(meta[2]) then return false end
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', K.nodes, int(now), '+inf')) do
    local joined = redis.call('HGET', K.node(other), 'started_at')
    if joined and tonumber(joined) <= tonumber(meta[3]) then return true end
  end
  return ARGV[5] ~= '1'
end
local draining, by_word = unpack(redis.call('HMGET', K.node(node), 'draining', 'by_word'))
local unseen = died and not draining and ended_unseen()
local function outcome_of(wid)   -- and whether it counts
  if not died then return 'node ' .. node .. ' handed it over', false end
  if draining and (not by_word or is_spared(wid)) then return 'node ' .. node .. ' ended in its drain', false end
  if unseen and is_spared(wid) then return 'node ' .. node .. ' was gone after Redis had been away', false end
  return 'node ' .. node .. ' died', true
end
local taken, ring, held = 0, {}, redis.call('HGETALL', K.held(node))
for i = 1, math.min(#held, 2 * tonumber(ARGV[2])), 2 do
  local wid, token = held[i], held[i + 1]
  local rec = read(wid)
  taken = taken + 1
  if owns(rec, token) then
    local outcome, counted = outcome_of(wid)
    if counted then redis.call('HSET', K.counted(node), wid, rec.epoch) end
    if release(wid, rec, outcome, counted, ARGV[3]) then add_ring(ring, wid, rec) else owe_part(wid, rec) end
  else
    redis.call('HDEL', K.held(node), wid)
  end
end
redis.call('PEXPIRE', K.counted(node), COUNTED_MS)
if redis.call('HLEN', K.held(node)) == 0 then
  redis.call('ZREM', K.nodes, node)
  redis.call('DEL', K.node(node), K.held(node))
  if died then emit('node_lost', nil, '{"node":' .. quote(node) .. '}') end
end
defer_rings()
return {taken, ring}
