-- Keep a new API token. Again, it changes nothing.
-- ARGV: token id, what is kept of it (the rest of a JSON object, without its '{'), ttl_ms or ''
-- Returns: what is kept (JSON), or false when the colony is unknown
if redis.call('HEXISTS', K.meta, 'id') == 0 then return false end
local expires = ARGV[3] ~= '' and int(now + tonumber(ARGV[3])) or 'null'
local kept = '{"created_at":' .. int(now) .. ',"expires_at":' .. expires .. ',' .. ARGV[2]
redis.call('HSETNX', K.tokens, ARGV[1], kept)
return redis.call('HGET', K.tokens, ARGV[1])
