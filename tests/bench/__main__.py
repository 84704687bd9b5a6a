"""``make bench``: Colony beside others, in one run on one machine, with production defaults.

    (a) 1,000 agents × 3 calls × 1 s in-process model latency, spawn to last report, ÷ ideal 3.0 s
    (b) CPU milliseconds per agent and per step on the node
    (c) spawn rate
    (d) memory per waiting agent, at 1,000 and 10,000
    (e) enqueue → first model request, idle
    (f) last report → wait_for_batch returns, for batches of 10, 1,000 and 10,000
    (g) spawn_batch of 1,000 and 10,000: records and doorbells
    (h) Redis memory of 1,000 parked parents, which hold no slot
    (i) stop of a tree of 1,000: when it is silent, and when all of it is terminal
    (j) kill -9 of a node with 100 running workers → the next model request of each
    (k) drain of a node with 1,000 running workers, beyond the calls in flight
    (l) a rolling restart of 2 nodes under load: reports lost, calls repeated
    (m) what heart and janitor cost with 10,000 parked and 10,000 waiting workers
    (n) 1,000 signed webhooks in a burst: how long each took to be answered
    (o) 10,000 timers spread over ten minutes, and 2,000 in one second: how late, and what it costs
    (p) (a) with 2 ms between Redis and everybody else each way, ÷ (a) on loopback
    (q) a worker settles → who follows the gateway's stream of events has heard it
    (r) a page of 100 of 10,000 workers, by the runtime and by the gateway

Production defaults: append-only file on, events on with one live reader, janitor on. Seconds do not
travel between machines, ratios do; the others run in the same minutes on the same machine. A peer
that is not installed is said to be absent (``pip install 'colony[bench]'``).

``ARGS=--quick`` for a tenth of the size; ``ARGS="three spawn"`` for some of the parts. Figures with a goal
are held to it: at full size one that is missed makes the exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator

from rich.console import Console
from rich.table import Table

from colony.redis_server import newest_server
from tests.bench import batches, fleet, front_door, looking, survival
from tests.bench.fleet import IDEAL_SECONDS, Row

PEERS = {"docket": "docket_agents", "dbos": "dbos_agents", "celery": "bare_celery"}
NOTES = {
    "docket": "one task per agent, no durable steps",
    "dbos": "one workflow per agent, durable steps, SQLite",
    "celery": "threads pool, calls as 3 tasks each, all at once (ideal 3.0 s)",
}
PEER_SECONDS = 120
PARTS = (
    *("three", "spawn", "memory", "latency"),
    *("fan-in", "batch", "parents", "stop"),
    *("rescue", "drain", "rolling", "idle"),
    *("webhooks", "timers"),
    *("distance", "stream", "listing"),
    "peers",
)


def peers(agents: int) -> Iterator[Row]:
    """The others at the same work, each in a process of its own."""
    for package, script in PEERS.items():
        if importlib.util.find_spec(package) is None:
            yield Row(f"(a) {package}", "absent", "not installed: pip install 'colony[bench]'")
            continue
        try:
            run = subprocess.run(
                [sys.executable, "-m", f"tests.bench.peers.{script}", str(agents)],
                capture_output=True,
                text=True,
                timeout=PEER_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            yield Row(f"(a) {package}", "failed", f"no result within {PEER_SECONDS} s")
            continue
        if run.returncode:
            yield Row(f"(a) {package}", "failed", run.stderr.strip().splitlines()[-1])
            continue
        figures = json.loads(run.stdout.strip().splitlines()[-1])
        wall = figures["wall_seconds"]
        cpu = f"{figures['cpu_ms_per_agent']:.2f} ms CPU per agent"
        yield Row(
            f"(a) {package}",
            f"{wall:.2f} s = {wall / IDEAL_SECONDS:.2f} × ideal",
            f"{cpu}; {NOTES[package]}",
        )


def _fan_in_rounds(quick: bool) -> dict[int, int]:
    """Rounds by size of the batch."""
    return {10: 20, 1000: 3} if quick else {10: 100, 1000: 20, 10_000: 3}


def main(argv: list[str]) -> int:
    """Measure, a row as soon as it is known, and the whole table at the end. 1 where a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the size; goals bind nobody"
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    agents = 100 if options.quick else 1000
    work = _work(agents, options.rounds, quick=options.quick)
    redis = newest_server()
    versions = f"Python {platform.python_version()} · Redis {redis.version_text}"
    rows = (row for part in options.parts or PARTS for measure in work[part] for row in measure())
    missed = tell(rows, f"{agents:,} agents × 3 calls × 1 s · {versions}", Console())
    return int(bool(missed) and not options.quick)


def tell(rows: Iterable[Row], title: str, console: Console) -> list[Row]:
    """Print each, then all; return those that miss their goal."""
    table = Table("what", "figure", "goal", "note", title=title)
    missed = []
    for row in rows:
        goal = "" if row.goal is None else row.goal.words
        if row.goal is not None and not row.goal.is_met:
            goal = f"[red]missed[/red] {goal}"
            missed.append(row)
        console.print(f"{row.what}: {row.figure}  {goal}  [dim]{row.note}[/dim]")
        table.add_row(row.what, row.figure, goal, row.note)
    console.print(table)
    return missed


def _work(agents: int, rounds: int, *, quick: bool) -> dict[str, list[Callable[[], list[Row]]]]:
    """What is measured, by part."""
    return {
        "three": [
            lambda: asyncio.run(fleet.three_calls(1, agents, rounds)),
            lambda: asyncio.run(fleet.three_calls(2, agents, rounds)),
        ],
        "spawn": [lambda: asyncio.run(fleet.spawn_rate(agents))],
        "memory": [
            lambda: asyncio.run(fleet.memory(agents)),
            lambda: asyncio.run(fleet.memory(10 * agents)),
        ],
        "latency": [lambda: asyncio.run(fleet.latency(agents // 2))],
        "fan-in": [lambda: asyncio.run(batches.fan_in(_fan_in_rounds(quick)))],
        "batch": [lambda: asyncio.run(batches.spawn_batches((agents, 10 * agents), rounds))],
        "parents": [lambda: asyncio.run(batches.parked_parents(agents))],
        "stop": [lambda: asyncio.run(batches.stop_tree())],
        "rescue": [
            lambda: asyncio.run(
                survival.rescue(agents // 10, "default", {}, survival.RESCUE_SECONDS)
            ),
            lambda: asyncio.run(
                survival.rescue(
                    agents // 10, "tuned", survival.TUNED, survival.TUNED_RESCUE_SECONDS
                )
            ),
        ],
        "drain": [lambda: asyncio.run(survival.drain(agents))],
        "rolling": [lambda: asyncio.run(survival.rolling_restart(agents // 5))],
        "idle": [lambda: asyncio.run(survival.idle_cost(10 * agents))],
        "webhooks": [lambda: asyncio.run(front_door.webhooks(agents))],
        "timers": [lambda: asyncio.run(front_door.timers(10 * agents, 2 * agents))],
        "distance": [lambda: asyncio.run(fleet.distance(agents, rounds))],
        "stream": [lambda: asyncio.run(looking.stream(agents // 2))],
        "listing": [lambda: asyncio.run(looking.listing(10 * agents))],
        "peers": [lambda: list(peers(agents))],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
