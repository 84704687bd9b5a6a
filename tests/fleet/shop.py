"""An existing Celery application, which is not ours: its tasks, and its worker as a process."""

from __future__ import annotations

import json
import sys
from typing import Any

from celery import Celery
from redis import Redis

SEEN = "shop:seen"


def shop(redis_url: str) -> Celery:
    """The application, on this Redis. It imports nothing of Colony."""
    app = Celery("shop", broker=redis_url, backend=redis_url)
    app.conf.task_default_queue = "shop"

    @app.task(name="shop.note", shared=False)  # type: ignore[untyped-decorator]
    def note(*what: Any) -> None:
        """Note the first argument where the test looks."""
        with Redis.from_url(redis_url) as redis:
            redis.rpush(SEEN, json.dumps(what[0]))

    @app.task(name="shop.double", shared=False)  # type: ignore[untyped-decorator]
    def double(number: int) -> int:
        return 2 * number

    @app.task(name="shop.word", shared=False)  # type: ignore[untyped-decorator]
    def word(text: str) -> str:
        return text

    @app.task(name="shop.gather", shared=False)  # type: ignore[untyped-decorator]
    def gather(results: Any) -> Any:
        return results

    return app


if __name__ == "__main__":
    shop(sys.argv[1]).worker_main(["worker", "--pool", "solo", "--without-mingle", "-Q", "shop"])
