"""Triggers that events fire: across colonies, once each, over the death of nodes, and never in a loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from colony.models import FireRecord, ReportStatus
from colony.runtime import ColonyRuntime
from colony.testing import Fleet, wait_until
from tests.fleet.helpers import assert_told_once
from tests.tour.helpers import report_of

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

WATCHED = "tests.fleet.background_definitions:background"
WATCHING = "tests.fleet.event_definitions:watching"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleets() -> AsyncIterator[tuple[Fleet, Fleet]]:
    """Two colonies in one Redis, a node each."""
    async with (
        Fleet(WATCHED, concurrency=10) as watched,
        Fleet(
            WATCHING,
            redis_url=watched.redis_url,
            concurrency=10,
            lease="1.5",
            beat_interval="0.4",
            sweep_interval="0.1",
        ) as watching,
    ):
        yield watched, watching


def on_failed_reports(trigger_id: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": trigger_id,
        "trigger_type": "event",
        "trigger_config": {
            "types": ["subagent_report"],
            "where": {"data.status": ["failed", "timeout"]},
            "colony": "background",
        },
        "task": "Look into ${event.worker_id}: ${event.data.summary}",
        **fields,
    }


async def fires_of(runtime: ColonyRuntime, trigger_id: str, count: int) -> list[FireRecord]:
    """Its fires, oldest first, once there are so many."""

    async def enough() -> bool:
        return len(await runtime.get_fires(trigger_id)) >= count

    await wait_until(enough, 20, what=f"{count} fires of {trigger_id}")
    return (await runtime.get_fires(trigger_id))[::-1]


async def test_a_failed_report_in_one_colony_spawns_in_another(
    fleets: tuple[Fleet, Fleet],
) -> None:
    """Of a success and two failures, each failure fires once, also when the node that watches is killed."""
    watched, watching = fleets
    await watching.runtime.put_trigger(on_failed_reports("failures"))
    [first] = await watched.runtime.spawn("fail")
    [good] = await watched.runtime.spawn("fetch")
    await report_of(watched.runtime, good)
    [fire] = await fires_of(watching.runtime, "failures", 1)
    watching.nodes[-1].kill()
    [second] = await watched.runtime.spawn("fail")
    await report_of(watched.runtime, second)
    await watching.add_nodes()
    fires = await fires_of(watching.runtime, "failures", 2)
    assert fires[0] == fire
    spawned = [str(fire.worker_id) for fire in fires]
    for worker_id, about in zip(spawned, (first, second), strict=True):
        record = await watching.runtime.get_worker(worker_id)
        assert record is not None
        assert record.task == f"Look into {about}: Could not fetch."
        assert record.cause == ("watching/failures",)
        assert (await report_of(watching.runtime, worker_id)).status is ReportStatus.SUCCESS
    await assert_told_once(watching.runtime, spawned)
    assert (await watching.runtime.get_trigger("failures")).fired == 2


async def test_a_loop_is_refused(fleets: tuple[Fleet, Fleet]) -> None:
    """Two triggers, each fired by the end of the other's worker: the second round is refused, and said so."""
    _, watching = fleets
    runtime = watching.runtime
    for trigger_id, upon in (("ping", "pong"), ("pong", "ping")):
        await runtime.put_trigger(
            {
                "id": trigger_id,
                "trigger_type": "event",
                "trigger_config": {
                    "types": ["subagent_report"],
                    "where": {"data.task": [f"{upon} it", "start"]},
                },
                "task": f"{trigger_id} it",
            }
        )
    await runtime.spawn("start")
    for trigger_id in ("ping", "pong"):
        fires = await fires_of(runtime, trigger_id, 3)
        outcomes = [fire.outcome.partition(":")[0] for fire in fires]
        assert outcomes == ["accepted", "accepted", "refused"]
        assert "a loop" in fires[-1].outcome


async def test_what_a_template_names_and_an_event_lacks(fleets: tuple[Fleet, Fleet]) -> None:
    """Noted as refused, with the name; the next event is looked at all the same."""
    watched, watching = fleets
    trigger = on_failed_reports("lacking", task="See ${event.data.nothing}")
    await watching.runtime.put_trigger(trigger)
    await watched.runtime.spawn("fail", count=2)
    fires = await fires_of(watching.runtime, "lacking", 2)
    assert all("nothing" in fire.outcome for fire in fires)
    assert [fire.worker_id for fire in fires] == [None, None]
