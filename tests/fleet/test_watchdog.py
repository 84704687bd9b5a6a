"""A node that is alive but deaf ends itself, and its work is done by the one started after it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from colony import ReportStatus
from colony.models import WorkerState
from colony.testing import Fleet, Node, wait_until
from tests.fleet.helpers import assert_at_rest, assert_told_once, records, statuses, wait_for_state
from tests.proxy import Proxy
from workers.node.watchdog import EXIT_DEAF

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio]

DEAF_AFTER = 3.0


def times(grace: float) -> dict[str, Any]:
    """Short times, for a node that is to notice soon."""
    times = {"lease": 2, "beat_interval": 0.4, "deaf_after": DEAF_AFTER, "drain_grace": grace}
    return {name: str(value) for name, value in times.items()}


async def test_a_node_whose_broker_connection_is_dead_is_restarted_by_its_supervisor() -> None:
    """Its connections to the broker hang, new ones would not, Redis is there: it ends with its own
    exit code, what it ran is handed over, and the next node does all work."""
    async with Fleet("tests.fleet.definitions:deadly", nodes=0, **times(6)) as fleet:
        runtime = fleet.runtime
        with Proxy(fleet.redis_url) as proxy:
            node = supervised(fleet, proxy.url)
            await wait_until(lambda: " ready." in node.tail(500), 20, what="the node is ready")
            asleep = await runtime.spawn("long-nap", count=3)
            await wait_for_state(runtime, WorkerState.RUNNING, 3)
            proxy.forget()
            ids = await runtime.spawn("nap", count=5)
            begun = time.monotonic()
            reports = await runtime.wait_for_worker_reports([*ids, *asleep], timeout=40)
            print(f"done by the next node {time.monotonic() - begun:.1f} s after")
            assert statuses(reports) == {ReportStatus.SUCCESS: 8}
            log = node.tail(500)
            assert "this node is deaf and ends, to be started again" in log
            assert "another is started" in log
            done = await records(runtime, [*ids, *asleep])
            assert {record.resurrections for record in done} == {0}
            await assert_told_once(runtime, [*ids, *asleep])
            await assert_at_rest(fleet.redis_url, "deadly")
            node.terminate()
            assert node.wait() == 0


async def test_a_node_whose_main_thread_hangs_ends_itself(tmp_path: Path) -> None:
    """Celery's loop is blocked for ever (and its signal handlers with it): the watchdog hands over
    what runs and ends the process."""
    hook = tmp_path / "block"
    async with Fleet("tests.fleet.deaf_definitions:colony", nodes=0, **times(1)) as fleet:
        runtime = fleet.runtime
        fleet._settings["COLONY_TEST_BLOCK"] = str(hook)
        [node] = await fleet.add_nodes()
        asleep = await runtime.spawn("doze", count=3)
        await wait_for_state(runtime, WorkerState.RUNNING, 3)
        hook.touch()
        await wait_until(lambda: node.process.poll() is not None, 30, what="the node has ended")
        assert node.process.returncode == EXIT_DEAF
        assert "the main thread does not end this node" in node.tail(500)
        found = await records(runtime, asleep)
        assert {(r.resurrections, r.node) for r in found} == {(0, None)}
        hook.unlink()
        [heir] = await fleet.add_nodes()
        reports = await runtime.wait_for_worker_reports(asleep, timeout=20)
        assert statuses(reports) == {ReportStatus.SUCCESS: 3}
        await assert_told_once(runtime, asleep)
        heir.terminate()
        assert heir.wait() == 0


async def test_a_node_that_only_has_nothing_to_do_or_no_broker_goes_on() -> None:
    """Idle, full, cut off from its broker: for several times deaf_after, no node ends itself."""
    async with Fleet("tests.fleet.definitions:deadly", nodes=0, concurrency=2, **times(6)) as fleet:
        runtime = fleet.runtime
        with Proxy(fleet.redis_url) as proxy:
            [node] = await fleet.add_nodes(broker_url=proxy.url)
            await for_seconds(2 * DEAF_AFTER)
            full = await runtime.spawn("sleep", count=4)
            await wait_for_state(runtime, WorkerState.RUNNING, 2)
            await for_seconds(2 * DEAF_AFTER)
            await runtime.stop_all_workers()
            assert len(await runtime.wait_for_worker_reports(full, timeout=10)) == 4
            proxy.refuse()
            ids = await runtime.spawn("nap", count=2)
            await for_seconds(2 * DEAF_AFTER)
            assert node.process.poll() is None
            proxy.open()
            reports = await runtime.wait_for_worker_reports(ids, timeout=20)
            assert statuses(reports) == {ReportStatus.SUCCESS: 2}
            assert "deaf" not in node.tail(1000)
            node.terminate()
            assert node.wait() == 0


async def test_no_round_fails_while_the_pool_is_being_started() -> None:
    """The watchdog looks before a prefork pool has any slot: the node's log has no traceback."""
    async with Fleet("tests.definitions:basic", pool="prefork", concurrency=2) as fleet:
        [node] = fleet.nodes
        await fleet.runtime.wait_for_worker_reports(
            await fleet.runtime.spawn("fetch", count=3), timeout=20
        )
        assert "Traceback" not in node.tail(1000), node.tail(1000)


async def for_seconds(seconds: float) -> None:
    """Let time pass: what is tested is that nothing happens."""
    until = time.monotonic() + seconds
    await wait_until(lambda: time.monotonic() > until, seconds + 5)


def supervised(fleet: Fleet, broker_url: str) -> Node:
    """A supervisor of one node, whose way to the broker is another than the fleet's."""
    made = fleet.start_node()
    made.kill()
    code = "import sys; from workers.serve import Supervisor; sys.exit(Supervisor(sys.argv[1:], 1).run())"
    node_command = [sys.executable, "-m", "workers", fleet.definition]
    env = {**fleet._env(), "COLONY_BROKER_URL": broker_url}
    node = Node([sys.executable, "-c", code, *node_command], env, None, made.log)
    fleet.nodes.append(node)
    return node
