-- Write one lifecycle event that belongs to no transition.
-- ARGV: type, worker id or '', data (JSON)
-- Returns: 'ok'
emit(ARGV[1], ARGV[2] ~= '' and ARGV[2] or nil, ARGV[3])
return 'ok'
