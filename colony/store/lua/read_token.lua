-- One API token, and what time it is. Changes nothing.
-- ARGV: token id
-- Returns: {what is kept of it (JSON) or '', now_ms}
return {redis.call('HGET', K.tokens, ARGV[1]) or '', int(now)}
