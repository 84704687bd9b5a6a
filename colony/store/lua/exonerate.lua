-- Take back the deaths that the workers of a node were counted for, a bounded number at a time: it was rescued, and had
-- been told to end, or was only cut off. Who has been given up for them stays so: nobody settles twice.
-- ARGV: node, cap, what became of it instead
-- Returns: {how many had been counted (0: no more), of how many it was taken back}
local OUTCOME_OF = 'node ' .. ARGV[1] .. ' '
local function forget_death(wid, epoch)
  local told = ', ' .. (redis.call('HGET', K.worker(wid), 'deaths') or '')
  local from, to = string.find(told, ', attempt ' .. epoch .. ': ' .. OUTCOME_OF .. 'died', 1, true)
  if not from then return end
  told = string.sub(told, 1, from - 1) .. string.sub(told, to + 1)
  redis.call('HSET', K.worker(wid), 'deaths', string.sub(told, 3))
end
local node, counted, looked_at, taken_back = ARGV[1], redis.call('HGETALL', K.counted(ARGV[1])), 0, 0
for i = 1, math.min(#counted, 2 * tonumber(ARGV[2])), 2 do
  local wid, epoch = counted[i], counted[i + 1]
  local rec = read(wid)
  redis.call('HDEL', K.counted(node), wid)
  looked_at = looked_at + 1
  if rec.state and not TERMINAL[rec.state] and is_spared(wid) then
    redis.call('HINCRBY', K.worker(wid), 'resurrections', -1)
    forget_death(wid, epoch)
    note_attempt(wid, rec, '{"epoch":' .. epoch .. ',"outcome":' .. quote(OUTCOME_OF .. ARGV[3]) .. '}\n')
    taken_back = taken_back + 1
  end
end
if taken_back > 0 then
  emit('node_exonerated', nil, '{"node":' .. quote(node) .. ',"reason":' .. quote(OUTCOME_OF .. ARGV[3])
    .. ',"workers":' .. int(taken_back) .. '}')
end
return {looked_at, taken_back}
