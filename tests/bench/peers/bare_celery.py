"""Celery alone, threads pool: the 3 calls of an agent as 3 tasks of 1 s, all at once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from celery import Celery, group

from colony.redis_server import EmbeddedRedis
from tests.bench.processes import cpu_seconds

app = Celery("bare")
app.config_from_object(
    {"broker_url": "", "result_backend": "", "result_extended": False}, silent=True
)


@app.task(name="bare.call")
def call(seconds: float) -> float:
    """One model call."""
    time.sleep(seconds)
    return seconds


def main(agents: int) -> dict[str, float]:
    """Wall time and CPU per agent."""
    with EmbeddedRedis() as redis:
        app.conf.update(broker_url=redis.url, result_backend=redis.url)
        node = subprocess.Popen(
            [
                *[sys.executable, "-m", "celery", "-A", "tests.bench.peers.bare_celery"],
                *["-b", redis.url, f"--result-backend={redis.url}"],
                *["worker", "-P", "threads", "-c", str(agents), "-l", "warning"],
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=Path.cwd(),
        )
        try:
            group(call.s(0.0) for _ in range(20))().get(timeout=60)
            before, began = cpu_seconds(node.pid), time.perf_counter()
            group(call.s(1.0) for _ in range(3 * agents))().get(timeout=120)
            wall = time.perf_counter() - began
            cpu = cpu_seconds(node.pid) - before
        finally:
            node.terminate()
            node.wait()
    return {"wall_seconds": wall, "cpu_ms_per_agent": 1000 * cpu / agents}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))
