"""A producer on a host of its own: ``python -m tests.fleet.host_producer TASK…`` spawns a worker for each
task, half of them as a batch, waits, and prints what became of them and how long it took, as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import time

from colony import ColonyRuntime

SECONDS = 40.0


async def produce(tasks: list[str]) -> None:
    """Say when they are accepted, then what they reported and who ran them."""
    began = time.monotonic()
    told: list[str] = []
    async with ColonyRuntime("secure") as runtime:
        listening = await runtime.subscribe(
            lambda event: told.append(f"{event.worker_id} {event.type}")
        )
        half = len(tasks) // 2
        single = [worker for task in tasks[:half] for worker in await runtime.spawn(task)]
        batch = await runtime.spawn_batch(tasks[half:])
        ids = [*single, *batch]
        print("accepted", flush=True)
        reports = await runtime.wait_for_worker_reports(ids, timeout=SECONDS)
        result = await runtime.wait_for_batch(batch.id, timeout=SECONDS)
        records = [await runtime.get_worker(worker) for worker in ids]
        await listening.close()
    print(
        json.dumps(
            {
                "statuses": [report.status for report in reports],
                "joined": result is not None and len(result.members) == len(batch),
                "told": [told.count(f"{worker} subagent_report") for worker in ids],
                "rescued": sum(record.epoch > 1 for record in records if record),
                "nodes": sorted({a.node for record in records if record for a in record.attempts}),
                "seconds": time.monotonic() - began,
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(produce(sys.argv[1:]))
