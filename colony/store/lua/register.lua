-- Make a colony known: its face and its limits. Idempotent; the last definition wins.
-- ARGV: field, value, … for the meta hash (id, goal, version, schema, limits, agents, tools as JSON text)
-- Returns: 'ok', or {'schema', the schema found} when a newer Colony wrote here.
local found = redis.call('HGET', K.meta, 'schema')
for i = 1, #ARGV, 2 do
  if ARGV[i] == 'schema' and found and tonumber(found) > tonumber(ARGV[i + 1]) then return {'schema', found} end
end
redis.call('HSET', K.meta, 'last_registered', int(now), unpack(ARGV))
local overridden = false
for _, field in ipairs(redis.call('HKEYS', K.meta)) do
  if string.sub(field, 1, 9) == 'override:' then overridden = true end
end
local capped = overridden or redis.call('HGET', K.meta, 'definition_capped') == '1'
  or redis.call('HGET', K.meta, 'trigger_capped') == '1'
redis.call('HSET', K.meta, 'capped', capped and '1' or '0')
call_all()   -- its caps may be others
admit()
defer_rings()
redis.call('HSETNX', K.meta, 'generation', 1)
redis.call('HSETNX', K.meta, 'registered', int(now))
return 'ok'
