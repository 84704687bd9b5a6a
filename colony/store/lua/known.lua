-- The first answer to an idempotency key, for as long as it is remembered.
-- ARGV: the key
-- Returns: {id, …}; empty when there is none
-- uses _idem
return cjson.decode(first_answer(ARGV[1]) or '[]')
