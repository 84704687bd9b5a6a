"""Members that their batch did not need: the join settles how they end, and they end so.

The guard behind every test compares each joined batch with the records of its members, too.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from colony.models import NOT_NEEDED, BatchResult, ReportStatus, WorkerState
from colony.store import Store
from colony.store.reads import ended_from
from colony.store.workers import Parent
from tests.store.batch_kit import (
    HOUR,
    batch_of,
    batch_record,
    due,
    end,
    record,
    states,
    try_join,
)
from tests.store.kit import NOW, SOON, claim, die, dump, events_of, step, success

STOPPED, SUCCESS = ReportStatus.STOPPED, ReportStatus.SUCCESS


async def _joined_without(store: Store, *steps: bool) -> tuple[str, str]:
    """A batch of two (policy: one is enough), joined by the first while the second runs with token t9.
    `steps`: it has filed a report before, provisional or not. The batch and the second."""
    batch_id, [good, other] = await batch_of(store, 2, need=1, deadline=HOUR)
    await claim(store, other, token="t9")
    for after, provisional in enumerate(steps):
        filed = replace(success("mine"), provisional=provisional)
        await store.checkpoint(other, "t9", step("a", filed=filed), after=after)
    await end(store, good)
    await try_join(store, batch_id)
    return batch_id, other


async def _said(store: Store, batch_id: str) -> ReportStatus:
    """How the second ended, says the consolidated result."""
    result = (await batch_record(store, batch_id)).result
    assert result is not None
    assert result.ok
    return result.members[1].status


@pytest.mark.parametrize("late", ["success", "failed"])
async def test_it_ends_as_the_result_says_whatever_it_reports(store: Store, late: str) -> None:
    """Not needed: stopped, from the join on; what it reports afterwards is kept as one event."""
    batch_id, other = await _joined_without(store)
    filed = replace(success("late"), status=ReportStatus(late))
    await store.checkpoint(other, "t9", step("a", filed=filed), after=0)
    await store.settle(other, "t9", filed)
    found = await record(store, other)
    assert found.report is not None
    assert (found.state, found.report.status) == (WorkerState.STOPPED, STOPPED)
    assert (found.report.error, found.report.summary) == (
        NOT_NEEDED,
        "Worker was not needed: the policy of its batch was met.",
    )
    assert (found.overruled, await _said(store, batch_id)) == (late, STOPPED)
    assert (await events_of(store, other)).count("late_result") == 1


@pytest.mark.parametrize("how", ["waiting", "killed", "timed out", "lost", "stopped at once"])
async def test_however_it_ends_it_is_stopped(store: Store, redis_url: str, how: str) -> None:
    """Its deadline, a stop with another status, and deaths of its node find it settled as stopped."""
    batch_id, other = await _joined_without(store)
    match how:
        case "waiting":
            await store.give_back(other, "t9", "moved", counted=False, ring_again_after=SOON)
            await due(store, f"deadline:{other}")
        case "killed":
            await due(store, f"rest:{batch_id}")
            await due(store, f"kill:{other}")
        case "timed out":
            await due(store, f"deadline:{other}")
            await due(store, f"kill:{other}")
        case "lost":
            await store.link.call("HSET", store.keys("worker", other), "resurrections", 3)
            await die(store, "n1")
            await store.rescue("n1", cap=10, ring_again_after=SOON)
        case _:
            await store.stop(other, status=ReportStatus.TIMEOUT, reason="r", grace=NOW)
    report = (await record(store, other)).report
    assert report is not None
    assert (report.status, report.error) == (STOPPED, NOT_NEEDED)
    assert await _said(store, batch_id) is STOPPED
    assert "quarantine" not in dump(redis_url, store)


@pytest.mark.parametrize("steps", [(False,), (True,), (True, False)])
async def test_a_report_that_was_filed_before_the_join_is_its_own(
    store: Store, steps: tuple[bool, ...]
) -> None:
    """Law 3: an explicit report survives the stop. The result names it, and a later one changes nothing."""
    batch_id, other = await _joined_without(store, *steps)
    assert await _said(store, batch_id) is SUCCESS
    failed = replace(success("late"), status=ReportStatus.FAILED)
    await store.checkpoint(other, "t9", step("b", filed=failed), after=len(steps))
    await due(store, f"rest:{batch_id}")
    await store.give_back(other, "t9", "told", counted=False, ring_again_after=SOON)
    report = (await record(store, other)).report
    assert report is not None
    assert (report.status, report.summary) == (SUCCESS, "mine")


async def test_its_children_are_stopped_though_it_ended_by_itself(store: Store) -> None:
    """It reports after the join and before its stop: the work that it left is not needed, either."""
    batch_id, [good, other, before] = await batch_of(store, 3, need=1)
    left = []
    for worker_id, token in ((other, "to"), (before, "tb")):
        await claim(store, worker_id, token=token)
        left += (await batch_of(store, 1, parent=Parent(worker_id, token)))[1]
    await store.settle(before, "tb", replace(success(), status=ReportStatus.FAILED))
    await end(store, good)
    await try_join(store, batch_id)
    await store.settle(other, "to", success())
    await due(store, f"rest:{batch_id}")
    for item in await store.due_items(100):
        await store.expire(item, grace=HOUR)
    assert await states(store, left) == ["STOPPED", "PENDING"], "one had ended before the join"


# -- what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "counts", "ok"),
    [
        ("all", {"success": 2}, True),
        ("all", {"success": 1, "stopped": 1}, False),
        ("any", {"partial": 1, "stopped": 1}, True),
        ("any", {"failed": 2}, False),
    ],
)
def test_a_result_is_ok_when_its_policy_is_met(
    policy: str, counts: dict[str, int], ok: bool
) -> None:
    """As many good reports as the policy asks for; also in a result that does not say how many."""
    told = {"batch_id": "b", "size": 2, "policy": policy, "counts": counts, "joined_at": 0}
    need = 2 if policy == "all" else 1
    assert BatchResult.model_validate({**told, "need": need}).ok is ok
    assert BatchResult.model_validate(told).ok is ok


async def test_first_n_is_ok_with_n(store: Store) -> None:
    """What is published and what is read name the same need: no more than there are members."""
    for need, size in ((2, 3), (4, 3)):
        batch_id, ids = await batch_of(store, size, need=need)
        for worker_id in ids[:need]:
            await end(store, worker_id)
        await try_join(store, batch_id)
        read = (await batch_record(store, batch_id)).result
        text = await store.link.call("HGET", store.keys("batch", batch_id), "result")
        published = ended_from(text)
        assert isinstance(published, BatchResult)
        assert read is not None
        assert (read.ok, read.need, published.need) == (True, min(need, size), min(need, size))
