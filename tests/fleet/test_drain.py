"""A node that is told to end: calls in flight end, the rest goes on elsewhere, nothing is repeated."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from redis import Redis

from colony import ReportStatus
from colony.errors import UnknownNode
from colony.models import WorkerState
from colony.redis_server import EmbeddedRedis
from colony.testing import Fleet, Node, start_process, wait_until
from tests.fleet.helpers import (
    assert_at_rest,
    assert_told_once,
    beside_a_command,
    node_name,
    records,
    statuses,
    wait_for_state,
)
from tests.proxy import Proxy

pytestmark = pytest.mark.fleet

LONG_ANSWERS = 9
"""How often the script "long" asks its model."""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the nodes write down what they ask their model."""
    path = tmp_path / "calls.jsonl"
    path.touch()
    monkeypatch.setenv("TEST_CALLS", str(path))
    return path


def asked(calls: Path) -> Counter[tuple[str, int]]:
    """How often each worker asked for each of its answers."""
    lines = [json.loads(line) for line in calls.read_text().splitlines()]
    return Counter((line["task"], line["answers"]) for line in lines)


def began(calls: Path, count: int) -> bool:
    """Whether so many questions were asked."""
    return sum(asked(calls).values()) >= count


async def spawn_long(fleet: Fleet, count: int) -> list[str]:
    """Workers of nine turns each, with tasks of their own."""
    return await fleet.runtime.spawn_batch([f"long {number}" for number in range(count)])


async def assert_all_done(fleet: Fleet, ids: list[str], calls: Path) -> None:
    """One good report each, no call repeated, no death counted, nothing left behind."""
    reports = await fleet.runtime.wait_for_worker_reports(ids, timeout=60)
    assert statuses(reports) == {ReportStatus.SUCCESS: len(ids)}
    assert {r.resurrections for r in await records(fleet.runtime, ids)} == {0}
    assert {key: n for key, n in asked(calls).items() if n > 1} == {}
    assert sum(asked(calls).values()) == LONG_ANSWERS * len(ids)
    await assert_told_once(fleet.runtime, ids)
    await assert_at_rest(fleet.redis_url, fleet.colony_id, 10)


async def supervised(fleet: Fleet) -> Node:
    """A supervisor with two nodes that are ready."""
    command = [sys.executable, "-m", "workers", fleet.definition, "--processes", "2"]
    supervisor = Node(command, fleet._env(), None, fleet._logs / "supervisor.log")
    fleet.nodes.append(supervisor)
    await wait_until(lambda: supervisor.tail(500).count(" ready.") == 2, 20, what="two nodes")
    return supervisor


async def _running(fleet: Fleet) -> int:
    return (await fleet.runtime.get_stats()).states[WorkerState.RUNNING]


async def _all_asleep(running: Fleet, count: int) -> bool:
    return await _running(running) == count


async def test_a_drain_takes_as_long_as_the_calls_in_flight(
    fleet: type[Fleet], calls: Path
) -> None:
    """SIGTERM in the 1 s model calls of 50 workers that have more turns to go: the node is gone within
    about 2 s, not after their 9 s; another goes on, and no call is made twice."""
    async with fleet("tests.definitions:slow") as running:
        ids = await spawn_long(running, 50)
        await wait_until(lambda: began(calls, 50), what="50 model calls in flight")
        [first] = running.nodes
        [heir] = await running.add_nodes(1)
        taken = began(calls, 150)
        first.terminate()
        told = time.monotonic()
        assert first.wait(15) == 0
        took = time.monotonic() - told
        print(f"the drain took {took:.2f} s")
        assert took < 3.0
        assert not taken, "they were about to end anyway"
        await assert_all_done(running, ids, calls)
        ends = Counter(
            attempt.outcome for r in await records(running.runtime, ids) for attempt in r.attempts
        )
        assert ends["handed over"] >= 40
        assert set(ends) == {"handed over", "success"}
        assert heir.process.poll() is None


async def test_an_answer_that_came_in_the_drain_has_its_calls_made_elsewhere(
    fleet: type[Fleet], calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call with effects, asked for by an answer that comes in the drain: made once, by the other node."""
    mails = tmp_path / "mails"
    monkeypatch.setenv("TEST_MAILS", str(mails))
    async with fleet("tests.definitions:slow") as running:
        [worker] = await running.runtime.spawn("side-effect")
        await wait_until(lambda: began(calls, 1), what="the model is asked")
        [first] = running.nodes
        first.terminate()
        assert first.wait(10) == 0
        assert not mails.exists()
        parts = await running.runtime.get_conversation(worker)
        assert parts[-1]["kind"] == "answer"
        assert parts[-1]["opened"] == []
        await running.add_nodes(1)
        report = await running.runtime.wait_for_worker(worker, timeout=15)
        assert report is not None
        assert report.ok
        assert len(mails.read_text().splitlines()) == 1
        assert set(asked(calls).values()) == {1}


async def test_after_the_grace_time_workers_are_handed_over(fleet: type[Fleet]) -> None:
    """SIGTERM with workers that do not end: they run on another node, and no death is counted."""
    async with fleet("tests.definitions:basic", drain_grace="0.5") as running:
        ids = await running.runtime.spawn("doze", count=10)
        await wait_until(lambda: _all_asleep(running, 10), what="ten workers run")
        [first] = running.nodes
        await running.add_nodes(1)
        first.process.send_signal(signal.SIGTERM)
        assert first.wait(15) == 0
        reports = await running.runtime.wait_for_worker_reports(ids, timeout=30)
        assert {report.status for report in reports} == {"success"}
        for worker_id in ids:
            record = await running.runtime.get_worker(worker_id)
            assert record is not None
            assert record.resurrections == 0
            assert [a.outcome for a in record.attempts] == ["handed over", "success"]


@pytest.mark.parametrize("before", [None, signal.SIGTERM], ids=["at once", "in a drain"])
async def test_sigquit_hands_over_at_once(
    fleet: type[Fleet], before: signal.Signals | None
) -> None:
    """SIGQUIT, also in a drain: the node is gone within 2 s, its workers run elsewhere, uncounted."""
    async with fleet("tests.definitions:basic") as running:
        ids = await running.runtime.spawn("doze", count=20)
        await wait_until(lambda: _all_asleep(running, 20), what="twenty workers run")
        [first] = running.nodes
        await running.add_nodes(1)
        if before is not None:
            first.process.send_signal(before)
            await wait_until(lambda: "Warm shutdown" in first.tail(500), what="it drains")
        first.process.send_signal(signal.SIGQUIT)
        told = time.monotonic()
        first.wait(15)
        took = time.monotonic() - told
        print(f"SIGQUIT took {took:.2f} s")
        assert took < 2.0
        reports = await running.runtime.wait_for_worker_reports(ids, timeout=30)
        assert statuses(reports) == {ReportStatus.SUCCESS: 20}
        for record in await records(running.runtime, ids):
            assert record.resurrections == 0
            assert [a.outcome for a in record.attempts] == ["handed over", "success"]
        await assert_told_once(running.runtime, ids)


@pytest.mark.parametrize("pool", ["threads", "prefork", "solo"])
@pytest.mark.parametrize(
    ("signum", "grace"), [(signal.SIGQUIT, 20), (signal.SIGTERM, 1)], ids=["at once", "in time"]
)
async def test_other_pools_end_as_fast(
    fleet: type[Fleet], pool: str, signum: signal.Signals, grace: float
) -> None:
    """At once, or after the grace, also under Celery's own pools, those included that cannot end a task."""
    async with fleet(
        "tests.fleet.definitions:quiet", pool=pool, concurrency=1, drain_grace=str(grace)
    ) as running:
        [worker] = await running.runtime.spawn("wait")
        await wait_for_state(running.runtime, WorkerState.RUNNING, 1)
        [node] = running.nodes
        node.process.send_signal(signum)
        told = time.monotonic()
        assert node.wait(15) == 0
        assert time.monotonic() - told < 4.0
        [record] = await records(running.runtime, [worker])
        assert record.state is WorkerState.PENDING
        assert record.resurrections == 0
        assert record.attempts[0].outcome in (
            "handed over",
            f"node {record.attempts[0].node} handed it over",
        )


async def test_a_supervisor_hands_on_sigquit(fleet: type[Fleet]) -> None:
    """SIGTERM, then SIGQUIT, to the supervisor alone: its nodes drain, then hand over at once."""
    async with fleet("tests.fleet.definitions:quiet", nodes=0) as running:
        supervisor = await supervised(running)
        [worker] = await running.runtime.spawn("wait")
        await wait_for_state(running.runtime, WorkerState.RUNNING, 1)
        supervisor.process.send_signal(signal.SIGTERM)
        await wait_until(
            lambda: supervisor.tail(500).count("Warm shutdown") == 2, what="they drain"
        )
        supervisor.process.send_signal(signal.SIGQUIT)
        took, slower = beside_a_command(lambda: supervisor.wait(15))
        assert supervisor.process.returncode == 0
        assert took < 3.0 * slower
        [record] = await records(running.runtime, [worker])
        assert (record.state, record.resurrections) == (WorkerState.PENDING, 0)


async def test_a_second_sigterm_changes_nothing(fleet: type[Fleet], calls: Path) -> None:
    """SIGTERM, and again and again: the node drains in order as after one."""
    async with fleet("tests.definitions:slow") as running:
        ids = await spawn_long(running, 10)
        await wait_until(lambda: began(calls, 10), what="ten model calls in flight")
        [first] = running.nodes
        await running.add_nodes(1)

        def heard(count: int) -> bool:
            return first.process.poll() is not None or (
                first.tail(500).count("Warm shutdown") >= count
            )

        for count in range(1, 4):
            first.terminate()
            await wait_until(partial(heard, count), what="it is heard")
        assert first.wait(15) == 0
        await assert_all_done(running, ids, calls)


async def test_a_node_is_drained_from_afar(fleet: type[Fleet], calls: Path) -> None:
    """`drain_node`, by the beginning of a name: the node ends as after SIGTERM, the other goes on."""
    async with fleet("tests.definitions:slow") as running:
        runtime = running.runtime
        ids = await spawn_long(running, 20)
        await wait_until(lambda: began(calls, 20), what="twenty model calls in flight")
        [first] = running.nodes
        [other] = await running.add_nodes(1)
        name = await node_name(runtime, first)
        with pytest.raises(UnknownNode, match="2 nodes"):
            await runtime.drain_node(name.partition("-")[0])
        with pytest.raises(UnknownNode, match="no node"):
            await runtime.drain_node("nobody")
        assert await runtime.drain_node(name.partition("@")[0]) == name
        draining = {node.node: node.draining for node in await runtime.list_nodes()}
        assert draining.get(name, True)
        assert not draining[await node_name(runtime, other)]
        assert first.wait(10) == 0
        assert other.process.poll() is None
        await assert_all_done(running, ids, calls)
        assert name not in {node.node for node in await runtime.list_nodes()}


async def test_a_supervisor_does_not_restart_what_was_drained(fleet: type[Fleet]) -> None:
    """One of two nodes under a supervisor is drained: it stays away; both: the supervisor ends, too."""
    async with fleet("tests.definitions:basic", nodes=0) as running:
        runtime = running.runtime
        supervisor = await supervised(running)

        async def alive() -> int:
            return (await runtime.get_stats()).nodes

        first, second = [node.node for node in await runtime.list_nodes()]
        await runtime.drain_node(first)

        async def gone() -> bool:
            return first not in {node.node for node in await runtime.list_nodes()}

        await wait_until(gone, what="the drained node has left")
        [worker] = await runtime.spawn("doze")
        assert await runtime.wait_for_worker(worker, timeout=15) is not None
        assert await alive() == 1
        assert "another is started" not in supervisor.tail(500)
        await runtime.drain_node(second)
        assert supervisor.wait(15) == 0


async def test_a_rolling_restart_under_load_loses_and_repeats_nothing(
    fleet: type[Fleet], calls: Path
) -> None:
    """Two nodes, replaced one after the other while 100 workers run: each report once, each call once."""
    async with fleet("tests.definitions:slow", nodes=2) as running:
        ids = await spawn_long(running, 100)
        await wait_until(lambda: began(calls, 100), what="100 model calls in flight")
        for old in list(running.nodes):
            await running.add_nodes(1)
            old.terminate()
            assert old.wait(15) == 0
        await assert_all_done(running, ids, calls)


async def test_what_waits_behind_a_full_node_goes_elsewhere_at_once(
    fleet: type[Fleet], calls: Path
) -> None:
    """More workers than slots: those that the draining node never began run on the other one."""
    async with fleet("tests.definitions:slow", concurrency=4) as running:
        ids = await spawn_long(running, 12)
        await wait_until(lambda: began(calls, 4), what="four model calls in flight")
        [first] = running.nodes
        await running.add_nodes(1)
        first.terminate()
        assert first.wait(10) == 0
        await assert_all_done(running, ids, calls)


@pytest.mark.parametrize("pool", ["threads", "prefork"])
async def test_other_pools_hand_over_between_calls_too(
    fleet: type[Fleet], calls: Path, pool: str
) -> None:
    """Under Celery's own pools a drain does not wait for the ends of workers either."""
    async with fleet("tests.definitions:slow", pool=pool, concurrency=2) as running:
        ids = await spawn_long(running, 2)
        await wait_until(lambda: began(calls, 2), what="two model calls in flight")
        [first] = running.nodes
        first.terminate()
        told = time.monotonic()
        assert first.wait(15) == 0
        assert time.monotonic() - told < 4.0
        await running.add_nodes(1)
        await assert_all_done(running, ids, calls)


async def test_five_deploys_do_not_count(fleet: type[Fleet]) -> None:
    """A long worker that is deployed away five times, out of a call at that, is not lost."""
    async with fleet(
        "tests.fleet.definitions:quiet", max_resurrections="1", drain_grace="0.1"
    ) as running:
        [worker] = await running.runtime.spawn("wait")

        async def runs_again(epoch: int) -> bool:
            [record] = await records(running.runtime, [worker])
            return (record.epoch, record.state) == (epoch, WorkerState.RUNNING)

        for deploy in range(1, 6):
            await wait_until(partial(runs_again, deploy), what="it runs")
            running.nodes[-1].terminate()
            assert running.nodes[-1].wait(15) == 0
            await running.add_nodes(1)
        await wait_until(partial(runs_again, 6), what="it runs again")
        [record] = await records(running.runtime, [worker])
        assert [a.outcome for a in record.attempts] == [*["handed over"] * 5, None]
        assert record.resurrections == 0
        assert await running.runtime.stop_worker(worker)


async def test_a_node_killed_in_its_drain_counts_for_nothing(fleet: type[Fleet]) -> None:
    """SIGTERM, and an orchestrator that does not wait: kill -9. A deploy is no death."""
    async with fleet(
        "tests.definitions:basic", max_resurrections="0", lease="1.5", beat_interval="0.4"
    ) as running:
        [worker] = await running.runtime.spawn("doze")
        await wait_for_state(running.runtime, WorkerState.RUNNING, 1)
        [first] = running.nodes
        await running.add_nodes(1)
        name = await node_name(running.runtime, first)
        first.terminate()

        async def known() -> bool:
            nodes = await running.runtime.list_nodes()
            return any(node.node == name and node.draining for node in nodes)

        await wait_until(known, what="the store knows that it drains")
        first.kill()
        report = await running.runtime.wait_for_worker(worker, timeout=20)
        assert report is not None
        assert report.ok, report
        [record] = await records(running.runtime, [worker])
        assert record.resurrections == 0
        assert record.attempts[0].outcome == f"node {name} ended in its drain"


async def test_a_drain_ends_without_redis(fleet: type[Fleet]) -> None:
    """SIGTERM while Redis is away: the node does not wait for it for ever."""
    with EmbeddedRedis() as redis:
        async with fleet(
            "tests.definitions:basic", redis_url=redis.url, drain_grace="0.5"
        ) as running:
            await running.runtime.spawn("sleep", count=3)
            await wait_until(lambda: _all_asleep(running, 3), what="three workers run")
            redis.kill()
            [node] = running.nodes
            node.terminate()
            assert node.wait(40) is not None
            redis.start()


@pytest.mark.parametrize(("signum", "busy"), [(signal.SIGTERM, True), (signal.SIGQUIT, False)])
async def test_a_node_that_is_cut_off_from_redis_ends(
    fleet: type[Fleet], signum: signal.Signals, busy: bool
) -> None:
    """Nobody refuses, nobody answers: the main thread waits and waits. What it ran goes on elsewhere, and the
    drain counts for nothing."""
    with EmbeddedRedis() as redis, Proxy(redis.url) as proxy:
        async with fleet(
            "tests.definitions:basic",
            nodes=0,
            redis_url=redis.url,
            lease="2",
            beat_interval="0.5",
            drain_grace="1",
            max_resurrections="0",
        ) as running:
            [cut_off] = await running.add_nodes(1, redis_url=proxy.url)
            ids = await running.runtime.spawn("doze", count=2) if busy else []
            await wait_until(lambda: _all_asleep(running, len(ids)), what="the workers run")
            proxy.black_hole()
            cut_off.process.send_signal(signum)
            assert await asyncio.to_thread(cut_off.wait, 25) == 0
            await running.add_nodes(1)
            reports = await running.runtime.wait_for_worker_reports(ids, timeout=20)
            assert {report.status for report in reports} <= {ReportStatus.SUCCESS}


async def test_doorbells_on_their_way_to_a_node_that_ends_go_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Redis is far from it, it has asked for several, and drains for long: another node has them at once, not
    when it has ended, or a janitor rings again."""
    monkeypatch.setattr(Node, "start", staticmethod(start_process))
    with EmbeddedRedis() as redis, Proxy(redis.url) as proxy, Redis.from_url(redis.url) as looker:

        def asked() -> int:
            return int(looker.info("commandstats").get("cmdstat_rpop", {}).get("calls", 0))

        async with Fleet(
            "tests.definitions:basic", nodes=0, redis_url=redis.url, ring_again_after="60"
        ) as fleet:
            runtime, far = fleet.runtime, fleet.start_node(redis_url=proxy.url)
            await wait_until(lambda: " ready." in far.tail(200), 30, what="a node is ready")
            [sleeper] = await runtime.spawn("sleep")
            await wait_for_state(runtime, WorkerState.RUNNING, 1)
            proxy.delay(250)
            before = asked()
            ids = await runtime.spawn("fetch", count=60)
            await wait_until(lambda: asked() > before + 1, 20, what="it has asked for several")
            far.terminate()
            await fleet.add_nodes(1)
            reports = await runtime.wait_for_worker_reports(ids, timeout=15)
            assert far.process.poll() is None, "it has drained already"
            assert statuses(reports) == {ReportStatus.SUCCESS: len(ids)}
            assert {record.rings for record in await records(runtime, ids)} == {0}
            proxy.open()
            await runtime.stop_worker(sleeper)
            assert await asyncio.to_thread(far.wait, 30) == 0, far.tail()
