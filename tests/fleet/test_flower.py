"""What a real Flower shows, through its API, of a fleet whose nodes are killed and workers stopped."""

from __future__ import annotations

import asyncio
import shelve
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from colony.errors import StoreUnavailable
from colony.models import ReportStatus, WorkerState
from colony.redis_server import EmbeddedRedis
from colony.testing import Fleet, wait_until
from tests.fleet.flower_kit import PASSWORD, USER, Flower, command, flower, free_port
from tests.fleet.helpers import node_name, records
from tests.fleet.tree_helpers import children_of, gates, until_states

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

TREES = "tests.fleet.tree_definitions:trees"
SECRET = "correct-horse-battery-staple"
DATA = {"password": SECRET}
RUNNING = WorkerState.RUNNING
SETTINGS: dict[str, Any] = {"lease": "1.5", "beat_interval": "0.5", "max_resurrections": "1"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where gates, logs and credentials are."""
    return tmp_path_factory.mktemp("flower")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(folder: Path) -> AsyncIterator[Fleet]:
    """Two nodes with short leases; a worker is rescued once."""
    with gates(folder):
        async with Fleet(TREES, nodes=2, **SETTINGS) as fleet:
            yield fleet


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shown(running: Fleet, folder: Path) -> AsyncIterator[Flower]:
    """A Flower that has heard of them."""
    with flower(running, folder, "--db", str(folder / "flower.db")) as it:
        await it.until_it_knows(2)
        yield it


async def test_each_agent_with_its_name_progress_and_parents(
    running: Fleet, shown: Flower, folder: Path
) -> None:
    """A tree: who works is STARTED with its turn and phase, who waits says for what; the links lead up."""
    [root] = await running.runtime.spawn(f"each hold tree {SECRET} / hold tree", data=DATA)
    children = await children_of(running.runtime, root, 2)
    waits = await shown.until(root, state="STARTED", colony="PARKED (children)")
    assert (waits["name"], waits["args"], waits["kwargs"]) == ("agent:agent", root, "")
    for child in children:
        works = await shown.until(child, state="STARTED", colony="RUNNING")
        assert works["result"] == "turn 1 · calls hold · 1 request · 15 tokens"
        assert (works["parent_id"], works["root_id"]) == (root, root)
    assert set(shown.task(root)["children"]) == set(children)
    (folder / "tree").touch()
    for one in (root, *children):
        ended = await shown.until(one, state="SUCCESS", colony="COMPLETED")
        [record] = await records(running.runtime, [one])
        assert record.report is not None
        assert ended["runtime"] == pytest.approx(record.report.duration_seconds, abs=0.2)


async def lose_node_of(running: Fleet, worker: str) -> None:
    """kill -9 of the node that runs it, and another in its place."""
    [record] = await records(running.runtime, [worker])
    [victim] = [
        node for node in running.nodes if await node_name(running.runtime, node) == record.node
    ]
    victim.kill()
    running.nodes.remove(victim)
    await running.add_nodes(1)


async def test_a_rescued_worker_goes_on_and_ends(
    running: Fleet, shown: Flower, folder: Path
) -> None:
    """kill -9: Flower shows its new node, and at the end its time from the first claim."""
    [worker] = await running.runtime.spawn(f"hold rescue {SECRET}", data=DATA)
    await until_states(running.runtime, [worker], RUNNING)
    first = await shown.until(worker, state="STARTED", colony="RUNNING")
    await lose_node_of(running, worker)

    async def elsewhere() -> None:
        while shown.task(worker)["worker"] == first["worker"]:
            await asyncio.sleep(0.05)

    await asyncio.wait_for(elsewhere(), 15)
    (folder / "rescue").touch()
    ended = await shown.until(worker, state="SUCCESS", colony="COMPLETED")
    [record] = await records(running.runtime, [worker])
    assert record.report is not None
    assert record.epoch == 2
    assert ended["runtime"] == pytest.approx(record.report.duration_seconds, abs=0.2)
    assert ended["runtime"] > 1.4, "the lease alone took longer"


async def test_a_worker_that_is_lost_ends(running: Fleet, shown: Flower) -> None:
    """Its node dies once more than a worker may be rescued: it is in quarantine, and Flower shows its end."""
    [worker] = await running.runtime.spawn("hold never")
    for epoch in (1, 2):

        async def runs(epoch: int = epoch) -> bool:
            [record] = await records(running.runtime, [worker])
            return record.state is RUNNING and record.epoch == epoch

        await wait_until(runs, 15, what=f"it runs for the {epoch}. time")
        await shown.until(worker, state="STARTED", colony="RUNNING")
        await lose_node_of(running, worker)
    ended = await shown.until(worker, state="FAILURE", colony="FAILED (lost)", traceback=None)
    [record] = await records(running.runtime, [worker])
    assert record.report is not None
    assert record.report.error is not None
    assert record.report.error.startswith("lost")
    assert [one.worker_id for one in (await running.runtime.page_quarantine()).items] == [worker]
    assert ended["runtime"] == pytest.approx(record.report.duration_seconds, abs=0.2)


async def test_a_deadline_while_parked_is_an_end(running: Fleet, shown: Flower) -> None:
    """No slice of the parent runs then: the janitor settles it, and tells Flower."""
    soon = timedelta(seconds=3)
    [root] = await running.runtime.spawn("each hold never / hold never", deadline=soon)
    children = await children_of(running.runtime, root, 2)
    await shown.until(root, state="STARTED", colony="PARKED (children)")
    for worker in (root, *children):
        await shown.until(worker, state="FAILURE", colony="FAILED (timeout)")
    [record] = await records(running.runtime, [root])
    assert record.report is not None
    assert record.report.status is ReportStatus.TIMEOUT


async def test_terminate_stops_that_one(running: Fleet, shown: Flower, folder: Path) -> None:
    """The API's Terminate ends one agent, for ever; its neighbour ends well, another one as it must."""
    gate = f"hold terminate {SECRET}"
    one, other = await running.runtime.spawn_batch([gate, gate])
    [failed] = await running.runtime.spawn("fail")
    await shown.until(failed, state="FAILURE", colony="FAILED", traceback=None)
    for worker in (one, other):
        await shown.until(worker, state="STARTED", colony="RUNNING")
    answer = shown.ask(f"/api/task/revoke/{one}?terminate=true", b"")
    assert answer.status == 200, answer
    await shown.until(one, state="REVOKED", colony="STOPPED")
    assert shown.task(other)["state"] == "STARTED"
    (folder / "terminate").touch()
    await shown.until(other, state="SUCCESS")
    await asyncio.sleep(1.2)  # nothing that comes late changes it: steps are sent once a second
    assert shown.task(one)["state"] == "REVOKED"


async def test_who_is_stopped_while_it_waits(running: Fleet, shown: Flower) -> None:
    """A parked parent that no slice runs, and its child: both are shown as stopped."""
    [root] = await running.runtime.spawn(f"each hold never {SECRET}", data=DATA)
    [child] = await children_of(running.runtime, root, 1)
    await shown.until(root, colony="PARKED (children)")
    await shown.until(child, colony="RUNNING")
    assert await running.runtime.stop_worker(root)
    for worker in (root, child):
        await shown.until(worker, state="REVOKED", colony="STOPPED")


async def test_no_secret_in_any_answer(running: Fleet, shown: Flower) -> None:
    """What tasks and data held is nowhere in Flower: not in its API, its pages, its metrics or its log."""
    [worker] = await running.runtime.spawn(f"hold never {SECRET}", data=DATA)
    await shown.until(worker, colony="RUNNING")
    [name, *_] = [task["worker"] for task in [shown.task(worker)]]
    columns = "&".join(f"columns[{n}][data]=name" for n in range(8))
    table = f"draw=1&start=0&length=100&order[0][column]=0&order[0][dir]=asc&{columns}"
    answers = {
        path: shown.ask(path, data)
        for path, data in (
            ("/api/tasks", None),
            (f"/api/task/info/{worker}", None),
            ("/api/workers?refresh=1", None),
            ("/tasks/datatable", table.encode()),
            (f"/task/{worker}", None),
            (f"/worker/{name}", None),
            ("/tasks", None),
            ("/broker", None),
            ("/metrics", None),
        )
    }
    assert {path: answer.status for path, answer in answers.items()} == dict.fromkeys(answers, 200)
    assert worker in answers["/tasks/datatable"].text
    assert "RUNNING" in answers["/tasks/datatable"].text
    assert [path for path, answer in answers.items() if SECRET in answer.text] == []
    log = shown.log.read_text()
    assert not [word for word in (SECRET, PASSWORD, "Traceback") if word in log], log
    await running.runtime.stop_worker(worker)


async def test_who_may_look_and_what_is_kept(running: Fleet, shown: Flower, folder: Path) -> None:
    """Nobody without credentials. With --db one that is started again knows what was heard; with
    --read-only it lets nobody stop anything."""
    for credentials in ("", f"{USER}:wrong", "nobody:" + PASSWORD):
        assert shown.ask("/api/tasks", credentials=credentials).status == 401
        assert shown.ask("/tasks", credentials=credentials).status == 401
    [worker] = await running.runtime.spawn("hold never")
    kept = ["--db", str(folder / "kept.db"), "--read-only"]
    with flower(running, folder, *kept) as before:
        await before.until_it_knows(2)
        [ended] = await running.runtime.spawn("fetch")
        await before.until(ended, state="SUCCESS", colony="COMPLETED")
    with flower(running, folder, *kept) as after:
        told = {"state": "SUCCESS", "colony": "COMPLETED", "name": "agent:agent"}
        await after.until(ended, **told)
        assert after.ask(f"/api/task/revoke/{worker}?terminate=true", b"").status == 403
    await until_states(running.runtime, [worker], RUNNING)
    await running.runtime.stop_worker(worker)


async def test_it_refuses_to_let_anybody_in(running: Fleet) -> None:
    """Nothing is served without credentials."""
    start = command(running.redis_url, "trees", "--port", str(free_port()))
    done = subprocess.run(start, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "Flower would let anybody look" in done.stderr


async def test_it_ends_and_keeps_what_it_knows_while_redis_is_away(tmp_path: Path) -> None:
    """Nothing that it asks of the broker holds it up, however often it has asked."""
    users, kept, port = tmp_path / "users", tmp_path / "kept.db", free_port()
    users.write_text(f"{USER}:{PASSWORD}\n")
    words = ["--port", str(port), "--basic-auth-file", str(users), "--db", str(kept)]
    log = tmp_path / "log"
    with EmbeddedRedis() as redis, log.open("wb") as out:
        start = command(redis.url, "trees", *words)
        process = subprocess.Popen(start, stdout=out, stderr=out)
        try:
            shown = Flower(f"http://127.0.0.1:{port}", log)
            await wait_until(lambda: shown.ask("/healthcheck").status == 200, 20, what="it listens")
            redis.stop()
            given_up = "Failed to enable events"
            await wait_until(lambda: given_up in log.read_text(), 15, what="it gives a request up")
            process.terminate()
            assert process.wait(5) == 0
        finally:
            process.kill()
            process.wait()
    with shelve.open(str(kept), "r") as found:
        assert set(found) == {"events", "counter"}


async def test_it_shows_again_what_happens_after_redis_was_away(tmp_path: Path) -> None:
    """For longer than Flower's own pause, which doubles each time, would let it come back soon."""
    with EmbeddedRedis(tmp_path / "redis", port=free_port()) as redis:
        async with Fleet(TREES, redis_url=redis.url) as fleet:
            with flower(fleet, tmp_path) as shown:
                await shown.until_it_knows(1)
                redis.stop()
                failed = "Failed to capture events"
                await wait_until(lambda: shown.log.read_text().count(failed) >= 5, 60, what=failed)
                redis.start()

                spawned: list[str] = []

                async def one_is_shown() -> (
                    bool
                ):  # not each: what ran before Flower listened is lost
                    with suppress(StoreUnavailable):
                        spawned.extend(await fleet.runtime.spawn("fetch"))
                        await fleet.runtime.wait_for_worker(spawned[-1], timeout=2)
                    latest = [shown.task(worker) for worker in spawned[-5:]]
                    return any(task.get("colony") == "COMPLETED" for task in latest)

                await wait_until(one_is_shown, 20, what="Flower shows a worker")
