"""Others at the same work, as scripts: ``python -m tests.bench.peers.<name> AGENTS`` prints JSON.

Each does what it can: `bare_celery` runs the calls as tasks (it has no agents), `docket_agents` one
task per agent without durable steps, `dbos_agents` one workflow per agent with a durable step per call.
"""
