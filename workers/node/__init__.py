"""What keeps a node honest, beside the pool: roles with the same three verbs, one file each.

    heart       renews the lease, and compares what the store thinks runs here with what does
    janitor     asks what is due in the fleet: dead nodes, deadlines, unanswered doorbells, retention
    timekeeper  fires timers that are due, and the triggers of events
    courier     sends the webhooks that are owed
    watchdog    ends a node that is alive but deaf, or does not come to its end
    ear         hears that a worker must stop, and cuts it

Each can be started and stopped and does one `round` after another, on a thread and a connection of its own
(`role`, `steps`), so a busy agent loop does not look like death; the ear lives on the agent loop, where the
agents are (in each child of a prefork pool). Any node can do any round, any number of times.

What they share is the `context`: the `lease` (may this node still act for what it has claimed?), the
`drain` (it is told to end: nothing new, and hand over) and the `word` on its disk (how it ended, should
Redis not be there to be told).

When Redis is away, rounds fail, are counted, and are tried again; when the lease is over, new calls and
writes are held. A node that dies leaves a lease that runs out, and a janitor elsewhere rescues.
"""
