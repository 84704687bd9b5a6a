"""The measurements of what comes in: webhooks in a burst, timers spread over minutes and all at once."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2

from colony.models import FireRecord, to_ms
from colony.runtime import ColonyRuntime
from colony.store import Link, Store
from colony.testing import wait_until
from colony.triggers import TriggerSpec
from tests.bench.fleet import Goal, Row, open_fleet
from tests.bench.processes import cpu_seconds
from tests.gateway.kit import Gateway

SECRET = "of-the-bench"
CONNECTIONS = 50
"""How many deliveries a sender has under way at once."""
SPREAD_MINUTES = 10
WATCHED_SECONDS = 60.0


async def webhooks(count: int) -> list[Row]:
    """(n) signed webhooks in a burst, each a worker: how long each took to be answered."""
    async with open_fleet(nodes=1) as (fleet, redis):
        with open_gateway(redis.url) as gateway:
            await fleet.runtime.put_trigger(_hook())
            url = f"{gateway.url}/v1/colonies/{fleet.runtime.colony_id}/hooks/bench"
            took, seconds = await _burst(url, count)
            workers = (await fleet.runtime.get_trigger("hook")).fired
    assert workers == count, f"{workers} workers for {count} deliveries"
    took.sort()
    p50, p99 = statistics.median(took), took[int(0.99 * (count - 1))]
    return [
        Row(
            "(n) webhook → 202",
            f"p50 {1000 * p50:.0f} ms, p99 {1000 * p99:.0f} ms",
            f"{count} in {seconds:.2f} s over {CONNECTIONS} connections, {workers} workers",
            Goal.at_most(250, 1000 * p99, "ms (p99)"),
        )
    ]


def _hook() -> TriggerSpec:
    config = {"path": "/bench", "scheme": "github", "secrets": ["env:BENCH_SECRET"]}
    return TriggerSpec.of(
        {"id": "hook", "trigger_type": "webhook", "trigger_config": config, "task": "three calls"}
    )


@contextmanager
def open_gateway(redis_url: str, **settings: str) -> Iterator[Gateway]:
    """A gateway beside a fleet, which knows the webhooks' secret."""
    os.environ["BENCH_SECRET"] = SECRET
    with tempfile.TemporaryDirectory() as folder:
        gateway = Gateway(redis_url, Path(folder) / "log", **settings)
        try:
            gateway.wait_ready()
            yield gateway
        finally:
            gateway.terminate()


async def _burst(url: str, count: int) -> tuple[list[float], float]:
    """Seconds that each took, and all of them."""
    took: list[float] = []
    numbers = iter(range(count))
    limits = httpx2.Limits(max_connections=CONNECTIONS)

    async def sender(client: httpx2.AsyncClient) -> None:
        for number in numbers:
            body = json.dumps({"number": number}).encode()
            digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
            headers = {
                "X-Hub-Signature-256": f"sha256={digest}",
                "X-GitHub-Delivery": str(number),
                "Content-Type": "application/json",
            }
            began = time.perf_counter()
            answer = await client.post(url, content=body, headers=headers)
            took.append(time.perf_counter() - began)
            assert answer.status_code == 202, answer.text

    async with httpx2.AsyncClient(limits=limits, timeout=60) as client:
        began = time.perf_counter()
        await asyncio.gather(*(sender(client) for _ in range(CONNECTIONS)))
        return took, time.perf_counter() - began


async def timers(spread: int, burst: int) -> list[Row]:
    """(o) timers spread over ten minutes, watched for one; and many that are due in the same second."""
    async with open_fleet(nodes=1) as (fleet, _):
        beat = fleet.start_beat()
        await wait_until(lambda: "Sending due task" in beat.tail(), 60, what="a beat that ticks")
        interval = 60.0 * SPREAD_MINUTES
        specs = [_timer(f"spread-{i}", {"interval": interval}) for i in range(spread)]
        await _put(fleet.runtime, specs)
        await _as_if_put_over(interval, fleet.runtime, specs)
        pids = {"beat": beat.pid, "node": fleet.nodes[0].pid}
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        began = time.perf_counter()
        await asyncio.sleep(WATCHED_SECONDS)
        watched = time.perf_counter() - began
        shares = {n: (cpu_seconds(pid) - before[n]) / watched for n, pid in pids.items()}
        late = sorted(await _lateness(fleet.runtime, specs))
        p99 = late[int(0.99 * (len(late) - 1))]
        rows = [
            Row(
                f"(o) {spread} timers over {SPREAD_MINUTES} min: late by",
                f"p50 {statistics.median(late):.2f} s, p99 {p99:.2f} s",
                f"{len(late)} fires; beat {shares['beat']:.1%} of a core, "
                f"node with their workers {shares['node']:.1%}",
                Goal.at_most(1.5, p99, "s (p99)"),
            )
        ]
        for spec in specs:
            await fleet.runtime.remove_trigger(spec.id)
        at = datetime.now(UTC) + timedelta(seconds=20)
        at_once = {"cron": f"{at.minute} {at.hour} * * * {at.second}"}
        specs = [_timer(f"burst-{i}", at_once) for i in range(burst)]
        await _put(fleet.runtime, specs)
        fires = await _first_fires(fleet.runtime, specs)
        times = sorted(to_ms(fire.at) for fire in fires)
        due = to_ms(at.replace(microsecond=0))
        seconds = (times[-1] - times[0]) / 1000
        rows.append(
            Row(
                f"(o) {burst} timers in one second",
                f"{burst / seconds:,.0f} accepted per second",
                f"the first {(times[0] - due) / 1000:.2f} s, the last {(times[-1] - due) / 1000:.2f} s late",
                Goal.at_least(1000, burst / seconds, "per second"),
            )
        )
    return rows


def _timer(trigger_id: str, config: Mapping[str, object]) -> TriggerSpec:
    given = {"id": trigger_id, "trigger_type": "timer", "trigger_config": config}
    return TriggerSpec.of({**given, "task": "at once", "agent": "at-once"})


async def _as_if_put_over(
    seconds: float, runtime: ColonyRuntime, specs: Sequence[TriggerSpec]
) -> None:
    """Have each of them due at its own part of that time from now."""
    store = Store(Link(runtime.settings.redis_url, patience=None), runtime.colony_id)
    now = await store.now_ms()
    for place, spec in enumerate(specs):
        due = now + round(1000 * seconds * (place + 1) / len(specs))
        await store.set_timer(spec.id, due=due, slot=due)
    await store.link.close()


async def _put(runtime: ColonyRuntime, specs: Sequence[TriggerSpec]) -> None:
    for start in range(0, len(specs), 100):
        await asyncio.gather(*(runtime.put_trigger(spec) for spec in specs[start : start + 100]))


async def _lateness(runtime: ColonyRuntime, specs: Sequence[TriggerSpec]) -> list[float]:
    late = []
    for spec in specs:
        for fire in await runtime.get_fires(spec.id):
            assert fire.due is not None
            late.append((to_ms(fire.at) - to_ms(fire.due)) / 1000)
    return late


async def _first_fires(runtime: ColonyRuntime, specs: Sequence[TriggerSpec]) -> list[FireRecord]:
    fires = []
    for spec in specs:

        async def fired(spec: TriggerSpec = spec) -> list[FireRecord]:
            return await runtime.get_fires(spec.id)

        [fire] = await wait_until(fired, 120, what=f"{spec.id} has fired")
        fires.append(fire)
    return fires
