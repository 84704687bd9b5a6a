"""What keeps a node honest: three roles beside the pool, one file each, the same three verbs.

    heart     renews the lease, and compares what the store thinks runs here with what does
    janitor   asks what is due in the fleet: dead nodes, deadlines, unanswered doorbells, retention
    ear       hears that a worker must stop, and cuts it

Each role can be started and stopped and does one `round` after another. Heart and janitor have a
thread and a connection of their own, so a busy agent loop does not look like death; the ear lives
on the agent loop, where the agents are (in each child of a prefork pool).
"""
