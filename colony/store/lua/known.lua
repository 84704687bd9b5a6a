-- The first answer to an idempotency key, for as long as it is remembered.
-- ARGV: the key
-- Returns: {id, …}; empty when there is none
local expiry = redis.call('ZSCORE', K.idem, ARGV[1])
if not expiry or tonumber(expiry) <= now then return {} end
return cjson.decode(redis.call('HGET', K.idem_ids, ARGV[1]))
