-- The first answer to an idempotency key, for as long as it is remembered.
-- ARGV: the key
-- Returns: {{id, …}, its batch or '-'}; empty when there is none
-- uses _idem
local ids, batch = first_answer(ARGV[1])
if not ids then return {} end
return {cjson.decode(ids), batch}
