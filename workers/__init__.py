"""What a node runs: the Celery app, the pool, the slice of a worker's life, the agent loop."""
