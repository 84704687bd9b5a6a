"""A node dies between any two steps of a batch's and a tree's life: each still ends exactly once.

For each point a node of its own is killed there, with a batch and a tree on it; the next node finishes both.
"""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis import Redis

from colony import OnComplete, ReportStatus
from colony.testing import Fleet
from tests.fleet.helpers import assert_at_rest, assert_told_once, records
from tests.fleet.tree_helpers import batch_of, joined, joins_told, statuses_of, total
from tests.tour.helpers import report_of
from workers.node.janitor import NOTICE_AGAIN

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

SUCCESS, FAILED = ReportStatus.SUCCESS, ReportStatus.FAILED
CHILDREN = 3
POINTS = (
    "before-claim@1",
    "after-claim@2",
    "after-checkpoint@1",
    "after-checkpoint@3",
    "before-accept@1",
    "after-accept@1",
    "before-ring@1",
    "after-ring@1",
    "before-park@1",
    "after-park@1",
    "before-settle@1",
    "after-settle@1",
    "after-settle@3",
    "after-settle@6",
    "before-join@1",
    "after-join@1",
    "after-join@2",
    "after-part@1",
    "after-part@5",
    "before-body@1",
    "after-body@1",
    "after-notices@1",
    "before-notice_sent@1",
    "after-notice_sent@1",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet_of_none() -> AsyncIterator[Fleet]:
    """Redis and a runtime; each test starts its nodes."""
    async with Fleet(
        "tests.fleet.tree_definitions:trees",
        nodes=0,
        lease="1.2",
        beat_interval="0.3",
        sweep_interval="0.1",
    ) as fleet:
        yield fleet


@pytest.mark.parametrize("point", POINTS)
async def test_killed_there_all_comes_through_once(fleet_of_none: Fleet, point: str) -> None:
    """kill -9 at the point: children are not doubled, each worker reports once, each batch joins once, in
    order, the parent wakes, and the producer is told at least once with one id."""
    fleet, runtime = fleet_of_none, fleet_of_none.runtime
    [faulty] = await fleet.add_nodes(fault=f"{point}:kill")
    accepted = await total(runtime, "accepted")
    [root] = await runtime.spawn(f"fan {CHILDREN} fetch")
    done = OnComplete(task="shop.done", queue=f"shop-{point}")
    batch = await runtime.spawn_batch(["fetch", "fail", "fetch"], on_complete=done)
    assert faulty.wait(10) == -9, "the point was not reached"
    following = fleet.start_node()

    result = await joined(runtime, batch.id, 30)
    assert [member.worker_id for member in result.members] == batch
    assert statuses_of(result) == [SUCCESS, FAILED, SUCCESS]
    report = await report_of(runtime, root, 30)
    assert (report.status, report.summary) == (SUCCESS, f"{CHILDREN} children.")

    children = await runtime.get_children(root)
    assert len(children) == CHILDREN
    assert await total(runtime, "accepted") == accepted + 1 + CHILDREN + len(batch)
    family = await batch_of(runtime, children[0])
    for joined_batch in (batch, family):
        assert len(await joins_told(runtime, joined_batch.id)) == 1
    everybody = [root, *children, *batch]
    await assert_told_once(runtime, everybody)
    assert all(record.resurrections <= 1 for record in await records(runtime, everybody))
    await assert_at_rest(fleet.redis_url, "trees", 8 + NOTICE_AGAIN.total_seconds())
    with Redis.from_url(fleet.redis_url) as redis:
        told = [json.loads(raw)["headers"]["id"] for raw in redis.lrange(done.queue, 0, -1)]
    assert set(told) == {f"{batch.id}.complete"}
    following.terminate()
    assert following.wait() in (0, -signal.SIGTERM), "or it was still starting"
