"""The tour, 7: the same verbs without an event loop, and from a shell."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from colony import ColonyClient, EventType, Report, ReportStatus, WorkerState
from colony.errors import IntakePaused, InvalidTask, NotEnded, UnknownTrigger, UnknownWorker
from colony.testing import Fleet, wait_until
from tests.tour.helpers import Calls

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]


async def blocking(tour: Fleet, story: Callable[[ColonyClient], None]) -> None:
    """Play a story with a client, in a thread: a service without an event loop."""

    def play() -> None:
        with ColonyClient("tour", redis_url=tour.redis_url) as client:
            story(client)

    await asyncio.to_thread(play)


async def test_a_blocking_client_spawns_and_waits(tour: Fleet) -> None:
    """spawn, spawn_batch and the waits of ColonyClient give the same as those of ColonyRuntime."""

    def story(client: ColonyClient) -> None:
        [slow] = client.spawn("nap")
        assert client.wait_for_worker(slow, timeout=0.1) is None
        ids = client.spawn_batch(["fetch", "fail"])
        reports = client.wait_for_worker_reports([slow, *ids, "nobody"], timeout=15)
        assert [report.status for report in reports] == ["success", "success", "failed", "failed"]
        assert client.wait_for_worker(slow) == client.get_worker_result(slow) == reports[0]
        parts = client.get_conversation(slow)
        assert [part["kind"] for part in parts][:3] == ["request", "answer", "result"]

    await blocking(tour, story)


ASK: dict[str, Any] = {"id": "ask", "trigger_type": "manual", "task": "${input.what}"}


async def test_fire_a_trigger_and_wait(tour: Fleet) -> None:
    """The report of the worker that was spawned: for the same key the first one's, None where it takes too
    long; it goes on, and the trigger's history names it."""
    await tour.runtime.put_trigger(ASK)
    fire = tour.runtime.trigger_and_wait
    first = await fire("ask", {"what": "fetch"}, timeout=15, idempotency_key="once")
    assert first is not None
    assert (first.status, first.summary) == (ReportStatus.SUCCESS, "Fetched 5 rows")
    assert await fire("ask", {"what": "fail"}, timeout=15, idempotency_key="once") == first
    failed = await fire("ask", {"what": "fail"})
    assert failed is not None
    assert failed.status is ReportStatus.FAILED
    assert await fire("ask", {"what": "nap"}, timeout=0.1) is None
    latest, *_ = await tour.runtime.get_fires("ask")
    slow = await tour.runtime.wait_for_worker(str(latest.worker_id), 15)
    assert slow is not None
    assert slow.summary == "Napped."
    with pytest.raises(InvalidTask, match="'what'"):
        await fire("ask", timeout=15)
    with pytest.raises(UnknownTrigger, match="'nobody'"):
        await fire("nobody", timeout=15)


async def test_a_blocking_client_fires_a_trigger_and_waits(tour: Fleet) -> None:
    """As ColonyRuntime does."""

    def story(client: ColonyClient) -> None:
        client.put_trigger(ASK)
        first = client.trigger_and_wait("ask", {"what": "fetch"}, timeout=15, idempotency_key="two")
        assert first is not None
        assert first == client.get_worker_result(first.worker_id)
        assert client.trigger_and_wait("ask", {"what": "nap"}, idempotency_key="two") == first
        assert client.trigger_and_wait("ask", {"what": "nap"}, timeout=0.1) is None
        latest = client.get_fires("ask")[0]
        assert client.wait_for_worker(str(latest.worker_id), timeout=15) is not None
        with pytest.raises(UnknownTrigger, match="'nobody'"):
            client.trigger_and_wait("nobody")

    await blocking(tour, story)


async def test_a_blocking_client_raises_the_same_errors(tour: Fleet) -> None:
    """Errors come out of ColonyClient as out of ColonyRuntime, and the client goes on."""

    def story(client: ColonyClient) -> None:
        with pytest.raises(InvalidTask, match="task is blank"):
            client.spawn(" ")
        with pytest.raises(UnknownWorker):
            client.wait_for_worker("nobody")
        [worker] = client.spawn("sleep")
        with pytest.raises(NotEnded, match="stop it first"):
            client.retry_worker(worker)
        assert client.stop_worker(worker)
        client.pause_intake()
        with pytest.raises(IntakePaused, match="colony resume"):
            client.spawn("fetch")
        client.resume_intake()
        assert client.spawn("fetch")

    await blocking(tour, story)


async def test_a_retry_is_a_new_worker_with_the_same_task(tour: Fleet) -> None:
    """retry_worker spawns task, data and correlation of an ended worker anew; the old one stays."""

    def story(client: ColonyClient) -> None:
        [old] = client.spawn("fail", data={"a": [1, {}]}, correlation_id="order-7")
        first = client.wait_for_worker(old, timeout=15)
        new = client.retry_worker(old)
        assert new != old
        again = client.wait_for_worker(new, timeout=15)
        assert first is not None
        assert again is not None
        assert again.status is ReportStatus.FAILED
        record = client.get_worker(new)
        assert record is not None
        assert (record.task, record.data) == ("fail", {"a": [1, {}]})
        assert (record.correlation_id, record.stream_id) == ("order-7", f"worker:{new}")
        assert client.get_worker_result(old) == first

    await blocking(tour, story)


async def test_lists_and_numbers_agree(tour: Fleet) -> None:
    """list_workers and get_stats count the same workers; newest first, by state, at most `limit`."""

    def story(client: ColonyClient) -> None:
        client.wait_for_worker_reports(client.spawn("fetch", count=3), timeout=15)
        parked = client.spawn("fetch", not_before=timedelta(hours=1), count=2)
        listed = client.list_workers(status="parked")
        assert {record.worker_id for record in listed} == set(parked)
        assert {record.waits_for for record in listed} == {"time"}
        stats = client.get_stats()
        for state in WorkerState:
            assert len(client.list_workers(status=state, limit=1000)) == stats.states[state]
        everyone = client.list_workers(limit=1000)
        assert [r.since for r in everyone] == sorted((r.since for r in everyone), reverse=True)
        assert client.list_workers(limit=2) == everyone[:2]
        assert client.stop_all_workers("Enough.") == 2
        results = [client.get_worker_result(worker) for worker in parked]
        assert [r and (r.status, r.summary) for r in results] == [("stopped", "Enough.")] * 2
        assert client.get_stats().states[WorkerState.PARKED] == 0
        [node] = client.list_nodes()
        assert node.pid == tour.nodes[0].pid

    await blocking(tour, story)


async def test_threads_share_one_client(tour: Fleet) -> None:
    """Eight threads spawn and wait with one client at the same time; each gets its own reports."""

    def story(client: ColonyClient) -> None:
        def one(number: int) -> tuple[Any, Any]:
            [worker] = client.spawn("context", data={"number": number})
            report = client.wait_for_worker(worker, timeout=15)
            assert report is not None
            return report.data["data"], report.worker_id == worker

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(one, range(24))) == [({"number": n}, True) for n in range(24)]

    await blocking(tour, story)


async def test_a_client_follows_events_with_a_plain_loop(tour: Fleet) -> None:
    """`for event in client.events(…)` yields kept events and then live ones, until it is left."""

    def story(client: ColonyClient) -> None:
        [worker] = client.spawn("nap", stream_id="loop")
        types = []
        for event in client.events(stream_id="loop", after="0"):
            types.append(event.type)
            if event.type == EventType.SUBAGENT_REPORT:
                break
        replayed = client.events(worker_id=worker, after="0", follow=False)
        assert [event.type for event in replayed] == types
        assert client.get_worker_result(worker) is not None

    await blocking(tour, story)


async def test_the_command_line_spawns_waits_shows_and_stops(tour: Fleet, calls: Calls) -> None:
    """colony spawn, wait, show and stop from a shell: the report is that of the store, and the exit
    code tells whether it is a success."""
    spawned = await colony(tour, "spawn", "context", "--data", '{"a": [1, {}]}', "--wait")
    [raw] = spawned["reports"]
    report = Report.model_validate(raw)
    assert (report.status, report.data["data"]) == (ReportStatus.SUCCESS, {"a": [1, {}]})
    assert report == await tour.runtime.get_worker_result(report.worker_id)

    failed = await colony(tour, "spawn", "fail", "--wait", code=1)
    assert failed["reports"][0]["status"] == "failed"

    [sleeper] = (await colony(tour, "spawn", "sleep for a shell"))["workers"]
    await wait_until(lambda: calls.of("sleep for a shell"), what="it runs")
    await colony(tour, "stop", sleeper)
    assert sleeper in json.dumps(await colony(tour, "show", sleeper))
    waited = await colony(tour, "wait", sleeper, code=1)
    assert waited["reports"][0]["status"] == "stopped"


async def colony(tour: Fleet, *arguments: str, code: int = 0) -> Any:
    """What ``colony … --json`` prints, from a process of its own."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "colony.cli", *arguments, "--json"],
        env={**os.environ, "COLONY_REDIS_URL": tour.redis_url, "COLONY_NAME": "tour"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)
