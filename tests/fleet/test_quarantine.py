"""Workers that are lost with their nodes: quarantined with where and how often; outages count for nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from colony import ColonyClient, ReportStatus
from colony.errors import NotQuarantined
from colony.models import WorkerState
from colony.redis_server import EmbeddedRedis
from colony.testing import Fleet, wait_until
from tests.fleet.helpers import node_name, records, statuses, wait_for_state
from tests.unit.cli_kit import answer, call

pytestmark = pytest.mark.fleet


async def ask(url: str, *arguments: str) -> Any:
    """What a command prints with --json."""
    return await asyncio.to_thread(answer, url, *arguments)


async def cli(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    return await asyncio.to_thread(call, *arguments)


async def lose(fleet: Fleet) -> tuple[str, list[str]]:
    """A worker under which every node dies; its id, and their names."""
    [node] = await fleet.add_nodes(1)
    [worker] = await fleet.runtime.spawn("wait")
    names = []
    for number in (1, 2):
        names.append(await node_name(fleet.runtime, node))

        async def claimed(epoch: int = number) -> bool:
            [record] = await records(fleet.runtime, [worker])
            return (record.epoch, record.state) == (epoch, WorkerState.RUNNING)

        await wait_until(claimed, what="the node runs it")
        node.kill()
        [node] = await fleet.add_nodes(1)
    assert await fleet.runtime.wait_for_worker(worker, timeout=20) is not None
    node.terminate()
    assert node.wait() == 0
    return worker, names


async def test_the_life_of_a_quarantined_worker() -> None:
    """It is failed with its nodes' names, listed, shown, retried and dropped; retention waits for that."""
    async with Fleet(
        "tests.fleet.definitions:quiet",
        nodes=0,
        lease="1.5",
        beat_interval="0.4",
        max_resurrections="1",
    ) as fleet:
        runtime, url = fleet.runtime, fleet.redis_url
        worker, (first, second) = await lose(fleet)
        report = await runtime.get_worker_result(worker)
        assert report is not None
        assert (report.status, report.error) == (ReportStatus.FAILED, "lost")
        assert report.summary == (
            "Worker was lost: its node died under it 2 times: "
            f"attempt 1: node {first} died, attempt 2: node {second} died."
        )
        assert (await runtime.get_stats()).quarantined == 1

        [listed] = await ask(url, "quarantine", "list")
        assert listed["worker_id"] == worker
        _, out, _ = await cli("quarantine", "list", "--redis-url", url)
        assert f"node {first} died" in out
        assert (await ask(url, "quarantine", "show", worker))["worker"]["report"]["error"] == "lost"
        _, out, _ = await cli("stats", "--redis-url", url)
        assert "see colony quarantine list" in out

        _, out, _ = await cli("doctor", "--redis-url", url)
        assert "1 workers were lost" in out

        [again] = await ask(url, "quarantine", "retry", worker)
        assert again["retried"] == worker
        [record] = await records(runtime, [again["worker"]])
        assert (record.task, record.resurrections) == ("wait", 0)
        assert await runtime.list_quarantine() == []
        assert await runtime.get_worker(worker) is not None
        code, _, err = await cli("quarantine", "drop", worker, "--redis-url", url)
        assert code == 1
        assert "is not in quarantine" in err
        with ColonyClient(runtime.colony_id, redis_url=url) as client:
            assert client.list_quarantine() == []
            with pytest.raises(NotQuarantined):
                client.retry_quarantined(worker)


async def test_dropped_by_its_id_or_with_all() -> None:
    """`drop` forgets it from quarantine; the next retention may take it."""
    async with Fleet(
        "tests.fleet.definitions:quiet",
        nodes=0,
        lease="1.5",
        beat_interval="0.4",
        max_resurrections="0",
        result_retention_max="1",
    ) as fleet:
        runtime, url = fleet.runtime, fleet.redis_url
        [node] = await fleet.add_nodes(1)
        lost = await runtime.spawn("wait", count=3)
        await wait_for_state(runtime, WorkerState.RUNNING, 3)
        node.kill()
        await fleet.add_nodes(1)

        async def all_lost() -> (
            bool
        ):  # nobody waits for a report: that would keep it from retention
            return (await runtime.get_stats()).quarantined == 3

        await wait_until(all_lost, 20, what="all are lost")
        assert len(await ask(url, "quarantine", "list")) == 3
        assert await ask(url, "quarantine", "drop", lost[0]) == {"dropped": [lost[0]]}
        assert sorted((await ask(url, "quarantine", "drop", "--all"))["dropped"]) == sorted(
            lost[1:]
        )
        assert (await cli("quarantine", "list", "--redis-url", url))[
            1
        ] == "Nothing is in quarantine.\n"
        assert (await cli("quarantine", "drop", "--redis-url", url))[0] == 2

        async def forgotten() -> bool:
            kept = [await runtime.get_worker(worker_id) for worker_id in lost]
            return sum(record is not None for record in kept) == 1

        await wait_until(forgotten, 20, what="retention takes two of them")


async def test_restarts_of_redis_count_for_nothing() -> None:
    """Redis is killed and restarted three times while workers run: none is rescued, each reports."""
    with EmbeddedRedis() as redis:
        async with Fleet(
            "tests.definitions:slow",
            redis_url=redis.url,
            lease="1.5",
            beat_interval="0.4",
            max_resurrections="0",
        ) as fleet:
            runtime = fleet.runtime
            ids = await runtime.spawn("long", count=20)
            await wait_for_state(runtime, WorkerState.RUNNING, 20)
            for _ in range(3):
                redis.kill()
                redis.start()

                async def alive() -> bool:
                    try:
                        return (await runtime.get_stats()).nodes == 1
                    except ConnectionError:
                        return False

                await wait_until(alive, 20, what="the node has a lease again")
            reports = await runtime.wait_for_worker_reports(ids, timeout=60)
            assert statuses(reports) == {ReportStatus.SUCCESS: 20}
            assert {r.resurrections for r in await records(runtime, ids)} == {0}
            assert (await runtime.get_stats()).quarantined == 0


async def test_drain_on_the_command_line() -> None:
    """`colony drain` by the beginning of a name, with --wait; a wrong name says which there are."""
    async with Fleet("tests.definitions:basic", nodes=2) as fleet:
        first, second = fleet.nodes
        name = await node_name(fleet.runtime, first)
        code, _, err = await cli("drain", "nobody", "--redis-url", fleet.redis_url)
        assert code == 1
        assert name in err
        assert (await cli("drain", "--redis-url", fleet.redis_url))[0] == 2
        told = await ask(fleet.redis_url, "drain", name.partition("@")[0], "--wait")
        assert told == {"drained": [name], "ended": True, "gone": []}
        assert first.wait(5) == 0
        assert second.process.poll() is None
        told = await ask(fleet.redis_url, "drain", "--all")
        assert len(told["drained"]) == 1
        assert second.wait(10) == 0
