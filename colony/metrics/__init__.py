"""What an operator's Prometheus is told, by nodes and gateways, at ``/metrics``.

    of the fleet      read from Redis when somebody scrapes, by any node and by the gateway: all tell the same
                      (in PromQL: ``max by (colony) (…)``), and nothing is lost with a process
    of one process    counted where it happens, in plain numbers (`instruments`): requests to models, tools,
                      slices, tokens, time spent

Labels are names that a definition gives (agents, models, tools) and words of ours; never an id, a task, a
node or a key. A metric that has `MOST_SERIES` of them says "other" of what comes more; of the fleet
``colony_figures_left_out`` says how many colonies, agents and counts are not told of. With Celery's
prefork pool what happens in slices is counted in its children, which tell their node.

Counting needs no package; to be scraped takes prometheus-client (the extra ``metrics``, part of ``node`` and
``gateway``). `names` lists the metrics of a process, `figures` those of the fleet, which `fleet` reads.
"""
