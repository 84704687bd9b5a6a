"""A node that was rescued and had not died: the deaths that its workers were counted for are taken back."""

from __future__ import annotations

from colony.models import WorkerState
from colony.store import Store
from tests.store.fixtures import OpenColony
from tests.store.kit import (
    SOON,
    check_keys,
    claim,
    die,
    dump,
    events_of,
    one,
    running,
    state,
    success,
    told,
)

CUT_OFF = "was cut off"
SPARED_MOST = 10


async def _rescued(store: Store, node: str = "n1", *, died: bool = True) -> None:
    await die(store, node)
    await store.rescue(node, cap=100, ring_again_after=SOON, died=died)


async def _deaths(store: Store, worker_id: str) -> tuple[int, list[str | None]]:
    """How many were counted, and how each attempt ended."""
    record = await store.get(worker_id)
    assert record is not None
    return record.resurrections, [attempt.outcome for attempt in record.attempts]


async def test_what_was_counted_is_taken_back_and_told(store: Store, redis_url: str) -> None:
    """The count and the reason of that attempt, of that node, once; what went on elsewhere goes on."""
    worker_id = await running(store, node="n0", token="t0")
    await _rescued(store, "n0")
    await claim(store, worker_id, node="n1", token="t1")
    await _rescued(store)
    await claim(store, worker_id, node="n2", token="t2")
    assert await store.exonerate("n1", CUT_OFF) == (1, 1)
    assert await _deaths(store, worker_id) == (1, ["node n0 died", "node n1 was cut off", None])
    assert (await events_of(store)).count("node_exonerated") == 1
    before = state(redis_url, store)
    assert await store.exonerate("n1", CUT_OFF) == (0, 0)
    assert state(redis_url, store) == before
    await store.settle(worker_id, "t2", success())
    check_keys(redis_url, store)


async def test_it_goes_in_portions(store: Store, redis_url: str) -> None:
    """The cap bounds each step, which tells what it did; all are reached."""
    ids = [await running(store, token=f"t{n}") for n in range(5)]
    await _rescued(store)
    assert await store.exonerate("n1", CUT_OFF, cap=2) == (5, 5)
    exonerated = [e for e in await told(store) if e["type"] == "node_exonerated"]
    assert [e["data"]["workers"] for e in exonerated] == [2, 2, 1]
    assert [await _deaths(store, w) for w in ids] == [(0, ["node n1 was cut off"])] * 5
    assert f"{store.keys('counted', 'n1')}" not in dump(redis_url, store)


async def test_the_reason_of_a_later_loss_names_only_who_died(open_colony: OpenColony) -> None:
    """A death that was taken back is not told as one."""
    store = await open_colony(max_resurrections=1)
    worker_id = await running(store, node="host-1/a", token="t1")
    await _rescued(store, "host-1/a")
    await store.exonerate("host-1/a", CUT_OFF)
    for number in (2, 3):
        await claim(store, worker_id, node=f"host-{number}/a", token=f"t{number}")
        await _rescued(store, f"host-{number}/a")
    record = await store.get(worker_id)
    assert record is not None
    assert record.report is not None
    assert record.report.summary == (
        "Worker was lost: its node died under it 2 times: attempt 2: node host-2/a died, "
        "attempt 3: node host-3/a died."
    )


async def test_who_was_given_up_stays_so(open_colony: OpenColony) -> None:
    """Settled is settled: the report and the quarantine stand, with what they say."""
    store = await open_colony(max_resurrections=0)
    worker_id = await running(store)
    await _rescued(store)
    before = await store.get(worker_id)
    await store.exonerate("n1", CUT_OFF)
    after = await store.get(worker_id)
    assert (after, after is not None and after.state) == (before, WorkerState.FAILED)
    assert await store.is_quarantined(worker_id)


async def test_who_is_forgotten_is_in_nobodys_way(store: Store) -> None:
    """Its record is gone; that of its neighbour is mended."""
    gone, other = await running(store, token="t1"), await running(store, token="t2")
    await _rescued(store)
    await claim(store, gone, node="n2", token="t3")
    await store.settle(gone, "t3", success())
    assert await store.retain(most=0, ttl=None, cap=10) == 1
    await store.exonerate("n1", CUT_OFF)
    assert await store.get(gone) is None
    assert (await _deaths(store, other))[0] == 0


async def test_a_worker_that_cuts_its_nodes_off_is_spared_so_often(store: Store) -> None:
    """Ten times, whatever it was spared for."""
    worker_id = await running(store)
    await store.link.call("HSET", store.keys("worker", worker_id), "spared", SPARED_MOST - 1)
    await _rescued(store)
    assert await store.exonerate("n1", CUT_OFF) == (1, 1)
    await claim(store, worker_id, node="n2", token="t2")
    await _rescued(store, "n2")
    assert await store.exonerate("n2", CUT_OFF) == (1, 0)
    assert (await _deaths(store, worker_id))[0] == 1
    assert (await events_of(store)).count("node_exonerated") == 1


async def test_what_was_upheld_stands(store: Store) -> None:
    """A later exoneration is of what came later."""
    first, second = await running(store, token="t1"), await one(store)
    await _rescued(store)
    await store.uphold("n1")
    await claim(store, second, token="t2")
    await _rescued(store)
    assert await store.exonerate("n1", CUT_OFF) == (1, 1)
    assert [(await _deaths(store, w))[0] for w in (first, second)] == [1, 0]


async def test_what_never_counted_cannot_be_taken_back(store: Store) -> None:
    """A hand-over, a drain: nothing is kept of them. What is kept, is kept for a week."""
    await running(store, node="n1", token="t1")
    await _rescued(store, died=False)
    await running(store, node="n2", token="t2")
    await store.drain("n2")
    await _rescued(store, "n2")
    for node in ("n1", "n2", "n9"):
        assert await store.exonerate(node, CUT_OFF) == (0, 0)
    await running(store, node="n3", token="t3")
    await _rescued(store, "n3")
    left = int(await store.link.call("PTTL", store.keys("counted", "n3")))
    assert 0 < left <= 7 * 24 * 3600 * 1000


async def test_the_event_says_what_and_of_how_many(store: Store) -> None:
    """What an operator reads."""
    for n in range(3):
        await running(store, token=f"t{n}")
    await _rescued(store)
    await store.exonerate("n1", CUT_OFF)
    *_, event = await told(store)
    assert (event["type"], event["data"]) == (
        "node_exonerated",
        {"node": "n1", "reason": "node n1 was cut off", "workers": 3},
    )
