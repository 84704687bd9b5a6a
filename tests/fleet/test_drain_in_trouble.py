"""A node that is drained while Redis is away, or full: its workers go on, and no death is counted."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from colony import ReportStatus
from colony.models import WorkerState
from colony.redis_server import EmbeddedRedis
from colony.testing import Fleet, wait_until
from tests.fleet.helpers import assert_told_once, records, statuses, wait_for_state
from tests.proxy import Proxy

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio]


LEASE = 2.0


def drained_fleet(url: str, **options: Any) -> Fleet:
    """One node, whose workers have no death to spare."""
    return Fleet(
        "tests.definitions:basic",
        redis_url=url,
        lease=str(LEASE),
        beat_interval="0.4",
        drain_grace="0.5",
        max_resurrections="0",
        **options,
    )


@contextmanager
def trouble_of(kind: str, redis: EmbeddedRedis, proxy: Proxy) -> Iterator[None]:
    """Redis is not to be had, or not to be written to, by the node, which talks to it by the proxy."""
    with Redis.from_url(redis.url) as operator:
        match kind:
            case "restarted":
                redis.kill()
                yield
                redis.start()
            case "cut off":
                proxy.refuse()
                yield
                proxy.open()
            case "silent":
                proxy.black_hole()
                yield
                proxy.open()
            case _:
                refusal = {
                    "out of memory": ("maxmemory", 1),
                    "without replicas": ("min-replicas-to-write", 1),
                }
                operator.config_set(*refusal[kind])
                yield
                operator.config_set(refusal[kind][0], 0)


@pytest.mark.parametrize(
    "kind", ["restarted", "cut off", "silent", "out of memory", "without replicas"]
)
async def test_a_drain_in_trouble_is_no_death(kind: str) -> None:
    """SIGTERM to the only node in it: the node ends, the trouble too, another node goes on."""
    with EmbeddedRedis() as redis, Proxy(redis.url) as proxy:
        async with drained_fleet(redis.url, nodes=0) as fleet:
            runtime, [node] = fleet.runtime, await fleet.add_nodes(1, redis_url=proxy.url)
            ids = await runtime.spawn("doze", count=3)
            await wait_for_state(runtime, WorkerState.RUNNING, 3)
            with trouble_of(kind, redis, proxy):
                node.terminate()
                assert await asyncio.to_thread(node.wait, 40) == 0
            await fleet.add_nodes(1)
            reports = await runtime.wait_for_worker_reports(ids, timeout=40)
            assert statuses(reports) == {ReportStatus.SUCCESS: 3}
            assert {r.resurrections for r in await records(runtime, ids)} == {0}
            await assert_told_once(runtime, ids)


@pytest.mark.parametrize("disk", ["kept", "lost"])
@pytest.mark.parametrize("told", [True, False], ids=["told to end", "killed"])
async def test_a_node_that_is_not_waited_for(told: bool, disk: str, tmp_path: Path) -> None:
    """kill -9 of the only node, at once after SIGTERM: the next one on its disk finds its word. Without
    SIGTERM that says that it died, and its worker has no death to spare. With the disk gone, too, nobody can
    say how it ended: no death."""
    with EmbeddedRedis() as redis, Redis.from_url(redis.url) as operator:
        async with drained_fleet(redis.url, nodes=0) as fleet:
            [node] = await fleet.add_nodes(state_dir=str(tmp_path))
            [worker] = await fleet.runtime.spawn("doze")
            await wait_for_state(fleet.runtime, WorkerState.RUNNING, 1)
            operator.config_set("min-replicas-to-write", 1)  # it can tell nobody
            refused_at = time.monotonic()
            if told:
                node.terminate()
                await wait_until(lambda: _said(tmp_path) == [True], what="its word")
            node.kill()
            await asyncio.to_thread(node.wait, 10)
            await wait_until(
                lambda: time.monotonic() > refused_at + 1.5 * LEASE, what="its lease is over"
            )
            operator.config_set("min-replicas-to-write", 0)
            if disk == "lost":
                [file] = tmp_path.iterdir()
                file.unlink()
            await fleet.add_nodes(1, state_dir=str(tmp_path))
            report = await fleet.runtime.wait_for_worker(worker, timeout=40)
            assert report is not None
            died = disk == "kept" and not told
            assert (report.ok, report.error) == ((False, "lost") if died else (True, None))
            assert True not in _said(tmp_path)


async def test_a_start_that_fails_leaves_no_word(tmp_path: Path) -> None:
    """A supervisor that tries again and again buries nobody's word under those of its own nodes."""
    with EmbeddedRedis() as redis, Redis.from_url(redis.url) as operator:
        async with drained_fleet(redis.url, nodes=0) as fleet:
            operator.config_set("min-replicas-to-write", 1)
            node = fleet.start_node(state_dir=str(tmp_path))
            assert await asyncio.to_thread(node.wait, 20) == 1
            assert [*tmp_path.iterdir()] == []


def _said(folder: Path) -> list[bool]:
    """Of each node that left word there, whether it was told to end."""
    said = [json.loads(file.read_text()) for file in folder.glob("colony-node-*.json")]
    return [bool(word["told_to_end"]) for word in said]


async def test_a_full_redis_gets_room_by_retention() -> None:
    """Results whose time is over are forgotten while it refuses to write."""
    with EmbeddedRedis() as redis:
        async with drained_fleet(redis.url, result_retention_ttl="8") as fleet:
            runtime = fleet.runtime
            ids = await runtime.spawn("fetch", count=5)
            await wait_for_state(runtime, WorkerState.COMPLETED, 5)
            with Redis.from_url(redis.url) as operator:
                operator.config_set("maxmemory", "1")

                async def forgotten() -> bool:
                    return await runtime.get_worker(ids[0]) is None

                await wait_until(forgotten, 30, what="retention")
                operator.config_set("maxmemory", "0")
