"""DBOS on SQLite: one workflow per agent, each of its three calls of 1 s a durable step."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from dbos import DBOS, DBOSConfig


@DBOS.step()
async def call(seconds: float) -> float:
    """One model call."""
    await asyncio.sleep(seconds)
    return seconds


@DBOS.workflow()
async def agent() -> int:
    """Three calls."""
    for _ in range(3):
        await call(1.0)
    return 5


async def measure(agents: int) -> dict[str, float]:
    """Wall time and CPU per agent; producer and worker are one process here."""
    handle = await DBOS.start_workflow_async(agent)
    await handle.get_result()
    began, before = time.perf_counter(), time.process_time()
    handles = [await DBOS.start_workflow_async(agent) for _ in range(agents)]
    for handle in handles:
        await handle.get_result()
    wall = time.perf_counter() - began
    return {
        "wall_seconds": wall,
        "cpu_ms_per_agent": 1000 * (time.process_time() - before) / agents,
    }


def main(agents: int) -> dict[str, float]:
    """On a fresh database."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'dbos.sqlite'}"
        config: DBOSConfig = {"name": "bench", "system_database_url": url, "log_level": "ERROR"}
        DBOS(config=config)
        DBOS.launch()
        try:
            return asyncio.run(measure(agents))
        finally:
            DBOS.destroy()


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))
