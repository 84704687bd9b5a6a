"""What the fleet tests ask again and again."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from subprocess import DEVNULL

from redis import Redis

from colony import EventType, ReportStatus
from colony.models import Report, WorkerRecord, WorkerState
from colony.runtime import ColonyRuntime
from colony.testing import Node, wait_until

LEAKS = (
    *("arrived:*", "joins", "outbox", "notices", "tried", "held:*", "due", "doorbells", "staged:*"),
    "units:*",
)
"""Keys that live only while something is under way (what was staged and refused expires)."""

NO_EXPIRY = -1
COMMAND_SECONDS = 1.0
"""What the start of a command may take on a machine that has nothing else to do."""


async def reports_told(runtime: ColonyRuntime) -> Counter[str]:
    """How many subagent_report events each worker has had."""
    types = [EventType.SUBAGENT_REPORT]
    kept = runtime.events(types=types, after="0", follow=False)
    return Counter([str(event.worker_id) async for event in kept if event.type in types])


async def assert_told_once(runtime: ColonyRuntime, ids: Iterable[str]) -> None:
    """Each of these workers ended with one report, and was told of once."""
    told = await reports_told(runtime)
    assert {worker_id: told[worker_id] for worker_id in ids} == dict.fromkeys(ids, 1)


def leftovers(redis_url: str, colony_id: str) -> dict[str, int]:
    """What a fleet at rest must not have: messages, claims, unanswered doorbells, due items, PENDING."""
    prefix = f"colony:{{{colony_id}}}:"
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        held = sum(int(redis.hlen(key)) for key in redis.keys(f"{prefix}held:*"))
        found = {
            "queue": int(redis.llen(f"colony.{colony_id}")),
            "unacked": int(redis.hlen(f"colony.{colony_id}.unacked")),
            "held": held,
            "doorbells": int(redis.zcard(f"{prefix}doorbells")),
            "due": int(redis.zcard(f"{prefix}due")),
        }
        for state in ("PENDING", "RUNNING", "PARKED"):
            found[state] = int(redis.zcard(f"{prefix}state:{state}"))
    return {name: count for name, count in found.items() if count}


def leaks(redis_url: str, colony_id: str) -> list[str]:
    """Keys that a fleet at rest must not have."""
    prefix = f"colony:{{{colony_id}}}:"
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        found = [key for name in LEAKS for key in redis.scan_iter(prefix + name)]
        return sorted(key for key in found if redis.ttl(key) == NO_EXPIRY)


async def assert_at_rest(redis_url: str, colony_id: str, timeout: float = 8) -> None:
    """After everything has ended nothing is left but records: no queue, no claim, no due item, no key."""

    def left() -> tuple[dict[str, int], list[str]]:
        return leftovers(redis_url, colony_id), leaks(redis_url, colony_id)

    try:
        await wait_until(lambda: left() == ({}, []), timeout, what="a fleet at rest")
    except AssertionError as error:
        raise AssertionError(f"left over: {left()}") from error


async def wait_for_state(
    runtime: ColonyRuntime, state: WorkerState, count: int, timeout: float = 15.0
) -> None:
    """Wait until at least `count` workers are in a state."""

    async def enough() -> bool:
        return (await runtime.get_stats()).states[state] >= count

    await wait_until(enough, timeout, what=f"{count} workers are {state}")


async def node_name(runtime: ColonyRuntime, node: Node) -> str:
    """The name by which the store knows a node process."""
    return next(info.node for info in await runtime.list_nodes() if info.pid == node.pid)


async def records(runtime: ColonyRuntime, ids: Iterable[str]) -> list[WorkerRecord]:
    """The records of workers that must exist."""
    found = [await runtime.get_worker(worker_id) for worker_id in ids]
    assert None not in found
    return [record for record in found if record is not None]


def beside_a_command(work: Callable[[], object]) -> tuple[float, float]:
    """How many seconds the work took, and how many times slower than it should be the start of a command was
    that did nothing, in the same moments (1: not slower)."""

    def timed(what: Callable[[], object]) -> float:
        began = time.monotonic()
        what()
        return time.monotonic() - began

    idle = [sys.executable, "-m", "colony.cli", "--help"]
    with ThreadPoolExecutor() as threads:
        command = threads.submit(timed, partial(subprocess.run, idle, check=True, stdout=DEVNULL))
        took = timed(work)
        return took, max(1.0, command.result(60) / COMMAND_SECONDS)


def statuses(reports: Iterable[Report]) -> Counter[ReportStatus]:
    """How many reports of each status."""
    return Counter(report.status for report in reports)
