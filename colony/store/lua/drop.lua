-- Forget a worker from quarantine: from now on it is kept like every other that has ended. Again, it changes nothing.
-- ARGV: worker id
-- Returns: 'ok'
leave_quarantine(ARGV[1])
return 'ok'
