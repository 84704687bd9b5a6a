-- Take the right to run a worker. Asked again with the same token it gives the same answer.
-- ARGV: worker id, node, token, definition's version
-- Returns: {'claimed', record as field, value, …, parts}, or {'refused', reason}:
--          'unknown', 'lease' (the node's is gone), 'draining' (the node is), 'version', or the state the worker is in
local wid, node, token = ARGV[1], ARGV[2], ARGV[3]
local rec = read(wid)
if not rec.state or rec.state == 'STAGED' then return {'refused', 'unknown'} end
local lease = redis.call('ZSCORE', K.nodes, node)
if not lease or tonumber(lease) <= now then return {'refused', 'lease'} end
if not owns(rec, token) then
  if rec.state ~= 'PENDING' then return {'refused', rec.state} end
  if redis.call('HGET', K.node(node), 'draining') then return {'refused', 'draining'} end
  local wanted = redis.call('HGET', K.worker(wid), 'version')
  if wanted ~= ARGV[4] then
    redis.call('HSET', K.worker(wid), 'waits_for', 'version ' .. wanted)
    -- Not unanswered, but at the wrong door. While a node of its version lives it is rung again soon, also when the
    -- queue is never empty; the more there are that wait, the later, so that this stays a trickle. Should that ring
    -- be lost, it is one that went unanswered for the first time.
    for _, other in ipairs(redis.call('ZRANGEBYSCORE', K.nodes, int(now), '+inf')) do
      if redis.call('HGET', K.node(other), 'version') == wanted then
        redis.call('ZADD', K.due, 'NX', now + 500 + 2 * redis.call('ZCARD', K.state('PENDING')), 'ring:' .. wid)
        redis.call('HSET', K.worker(wid), 'rings', 0)
        redis.call('ZADD', K.doorbells, now + RING_AGAIN_MS, wid)
        break
      end
    end
    return {'refused', 'version'}
  end
  enter(wid, rec, 'RUNNING')
  rec.epoch = redis.call('HINCRBY', K.worker(wid), 'epoch', 1)
  local line = '{"epoch":' .. int(rec.epoch) .. ',"node":' .. quote(node) .. ',"started_at":' .. int(now) .. '}\n'
  note_attempt(wid, rec, line)
  redis.call('HSET', K.worker(wid), 'token', token, 'node', node)
  redis.call('HDEL', K.worker(wid), 'waits_for')
  redis.call('HSET', K.held(node), wid, token)
  if rec.started then
    emit('execution_resumed', wid, '{"attempt":' .. int(rec.epoch) .. '}')
  else
    redis.call('HSET', K.worker(wid), 'started', int(now))
    emit('execution_started', wid, '{"agent":' .. quote(rec.agent) .. ',"task":' .. quote(rec.label or '') .. '}')
  end
end
return {'claimed', redis.call('HGETALL', K.worker(wid)), redis.call('LRANGE', K.parts(wid), 0, -1), int(now)}
