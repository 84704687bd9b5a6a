"""Flower, Celery's monitor, made to show agents: needs the extra ``colony[flower]``.

==========  =====================================================================================
app         the Celery application that Flower runs with: the broker of one colony, no tasks
control     what it asks of nodes, given up soon: it ends also while the broker is away
hearing     what nodes tell, heard again soon after the broker was away
settings    COLONY_FLOWER_…: where it listens, who may look, whether they may also stop
screen      what a task looks like: a column for the colony's own state, the runtime of the agent
config      the configuration that Flower reads (``--conf``); refuses what would let anybody in
==========  =====================================================================================

Nodes send the events (`workers.showing`). Flower remembers what it has heard and nothing else: the store
is the truth (`colony list`, `colony show`). ``colony flower`` starts it.
"""
