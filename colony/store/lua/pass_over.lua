-- Set a timer forward without a fire: nothing of what it missed is to be made good; or note that it could not fire.
-- ARGV: the fire (JSON: see _fire.lua), what to note
-- Returns: 'ok', or 'fired' (another was first, or it was removed)
-- uses _fire
local fire = cjson.decode(ARGV[1])
if redis.call('EXISTS', K.trigger(fire.trigger)) == 0 or fire.due and why_not_now(fire) then return 'fired' end
note_fire(fire, ARGV[2], nil)
return 'ok'
