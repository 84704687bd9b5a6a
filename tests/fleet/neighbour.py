"""A stock late-ack Celery application, as another team may run it on the same Redis database."""

from __future__ import annotations

import os
import time

from celery import Celery
from redis import Redis

URL = os.environ.get("NEIGHBOUR_REDIS_URL", "redis://127.0.0.1:6379/0")

app = Celery("neighbour", broker=URL, backend=URL)
app.conf.task_acks_late = True


@app.task(name="neighbour.bake")  # type: ignore[untyped-decorator]
def bake(loaf: int, seconds: float) -> int:
    """Take a while, and note each time it begins."""
    with Redis.from_url(URL) as redis:
        redis.rpush("neighbour:baked", loaf)
    time.sleep(seconds)
    return loaf
