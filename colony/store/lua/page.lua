-- A page of an index, newest first, each worker with some of its fields. Changes nothing.
-- ARGV: index ('listed', 'quarantine' or a state), score and id of the last one on the page before (or '', ''), how many,
--       then the names of fields
-- Returns: {id, score, {value, …}, id, …}
local index, from = ARGV[1], 0
local key = type(K[index]) == 'string' and K[index] or K.state(index)
local score, id = tonumber(ARGV[2]), ARGV[3]
if score then   -- the first that comes after it, whether it is still there or not
  local past = redis.call('ZCARD', key)
  while from < past do
    local middle = math.floor((from + past) / 2)
    local found = redis.call('ZREVRANGE', key, middle, middle, 'WITHSCORES')
    local its = tonumber(found[2])
    if its > score or (its == score and found[1] >= id) then from = middle + 1 else past = middle end
  end
end
local out = {}
local entries = redis.call('ZREVRANGE', key, from, from + tonumber(ARGV[4]) - 1, 'WITHSCORES')
for i = 1, #entries, 2 do
  out[#out + 1] = entries[i]
  out[#out + 1] = entries[i + 1]
  out[#out + 1] = redis.call('HMGET', K.worker(entries[i]), unpack(ARGV, 5))
end
return out
