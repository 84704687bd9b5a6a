"""From the event log to the triggers that events fire: each event once, since a trigger began to watch."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from colony.models import FireRecord
from colony.store import Store
from colony.store.workers import Parent
from colony.triggers import TriggerSpec
from colony.triggers.firing import Firing
from colony.triggers.keeping import put
from tests.store.batch_kit import batch_of, end_all
from tests.store.fixtures import OpenColony
from tests.store.kit import SOON, claim, one, success
from tests.store.test_triggers import firing_of, manual, settle
from workers.node.following import PAGE, PAGES
from workers.node.watching import watch_events

ACCEPTED = "execution_accepted"


def on_event(*types: str, trigger_id: str = "e", colony: str | None = None) -> TriggerSpec:
    config: dict[str, Any] = {"types": types, "colony": colony}
    return manual(trigger_id, trigger_type="event", trigger_config=config)


async def watch(store: Store) -> None:
    """One round of a node."""

    async def made() -> Firing:
        return firing_of(store)

    await watch_events(store, made, interval=timedelta(0))


async def fires_of(store: Store, trigger_id: str = "e") -> list[FireRecord]:
    """Its fires, oldest first."""
    return (await store.fires(trigger_id, 100))[::-1]


async def test_another_colony_is_watched_from_now_on(open_colony: OpenColony) -> None:
    """Whose log is longer, or shorter: nothing of its past fires, nothing of its future is passed over."""
    store, long, short = [await open_colony() for _ in range(3)]
    for _ in range(5):
        await one(long)
    await one(short)
    for source in (short, long, short):
        await put(store, on_event(ACCEPTED, colony=source.colony_id))
        before = len(await fires_of(store))
        await watch(store)
        assert len(await fires_of(store)) == before
        await one(source)
        await watch(store)
        assert len(await fires_of(store)) == before + 1


async def test_a_trigger_that_watches_again_begins_anew(open_colony: OpenColony) -> None:
    """What happened while it was of another type does not fire it; a change of its task loses nothing."""
    store, other = [await open_colony() for _ in range(2)]
    spec = on_event(ACCEPTED, colony=other.colony_id)
    await put(store, spec)
    await one(other)
    await put(store, spec.model_copy(update={"task": "Another."}))
    await watch(store)
    assert len(await fires_of(store)) == 1
    await put(store, manual("e"))
    await one(other)
    await put(store, spec)
    await watch(store)
    assert len(await fires_of(store)) == 1


async def test_a_round_that_was_overtaken_leaves_the_cursor(open_colony: OpenColony) -> None:
    """One who watched the colony of before, or came second, does not set it back."""
    store, old, new = [await open_colony() for _ in range(3)]
    await put(store, on_event(ACCEPTED, colony=old.colony_id))
    [(_, _, cursor)] = await store.watchers(timedelta(0))
    await put(store, on_event(ACCEPTED, colony=new.colony_id))
    assert not await store.set_cursor("e", old.colony_id, cursor, "1-7")
    assert await store.set_cursor("e", new.colony_id, cursor, "1-3")
    assert not await store.set_cursor("e", new.colony_id, cursor, "1-2")
    [(_, _, kept)] = await store.watchers(timedelta(0))
    assert kept == "1-3"


async def test_a_loop_through_a_batch_is_refused(open_colony: OpenColony) -> None:
    """The event of a batch has no worker: it says what led to the parent that spawned it, who may be gone."""
    store, other = [await open_colony() for _ in range(2)]
    spec = on_event("batch_completed")
    await put(store, spec)
    await put(other, on_event("batch_completed", colony=store.colony_id))
    batch_id, ids = await batch_of(store, 1)
    await end_all(store, ids)
    await store.join(batch_id, ring_again_after=SOON)
    await watch(store)
    [fire] = await fires_of(store)
    assert (fire.outcome, fire.worker_id is None) == ("accepted", False)
    by = Parent(str(fire.worker_id), "t1")
    await claim(store, by.worker_id, token=by.token)
    batch_id, ids = await batch_of(store, 2, parent=by)
    await store.settle(by.worker_id, by.token, success())
    await end_all(store, ids)
    await store.join(batch_id, ring_again_after=SOON)
    await store.retain(most=0, ttl=None, cap=100)
    assert await store.batch(batch_id) is None
    await watch(store)
    accepted, refused = await fires_of(store)
    assert accepted == fire
    assert refused.outcome == f"refused: a loop ({store.colony_id}/e)"
    await watch(other)
    outcomes = [fire.outcome for fire in await fires_of(other)]
    assert outcomes == ["accepted", "accepted"], "another's trigger may follow"


async def test_a_loop_is_refused_after_its_workers_were_retired(store: Store) -> None:
    """Its event itself says what led to it."""
    await put(store, on_event("execution_completed"))
    await settle(store, await one(store))
    await watch(store)
    [fire] = await fires_of(store)
    await settle(store, str(fire.worker_id))
    await store.retain(most=0, ttl=None, cap=100)
    await watch(store)
    assert [f.outcome.partition(":")[0] for f in await fires_of(store)] == ["accepted", "refused"]


async def test_an_event_of_which_nobody_can_tell_what_led_to_it_is_refused(store: Store) -> None:
    """Its worker's record was gone when it was written: it might be a loop."""
    await put(store, on_event("execution_completed"))
    await store.run("tell", "execution_completed", "w0", "{}")
    await watch(store)
    [fire] = await fires_of(store)
    assert (fire.worker_id, fire.outcome.partition(":")[0]) == (None, "refused")


async def tell(store: Store, count: int, kind: str = "noise") -> None:
    """Write so many events."""
    await asyncio.gather(*(store.run("tell", kind, "", "{}") for _ in range(count)))


async def test_a_busy_log_is_caught_up_with_in_one_round(store: Store) -> None:
    """Several pages of it; one longer than that is gone on with in the next round."""
    await put(store, on_event("wanted"))
    await tell(store, 3 * PAGE)
    await tell(store, 1, "wanted")
    await watch(store)
    assert len(await fires_of(store)) == 1
    await tell(store, PAGES * PAGE)
    await tell(store, 1, "wanted")
    await watch(store)
    assert len(await fires_of(store)) == 1
    await watch(store)
    assert len(await fires_of(store)) == 2


async def test_a_gap_in_the_log_is_told_once_and_counts_as_nothing(open_colony: OpenColony) -> None:
    """Most of what the log has no more was not for this trigger; also when the event behind it must wait."""
    store = await open_colony(max_history=10)
    await put(store, on_event("wanted"))
    await tell(store, 500)
    await tell(store, 1, "wanted")
    await store.set_intake(paused=True)
    for _ in range(3):
        await watch(store)
    await store.set_intake(paused=False)
    await watch(store)
    outcomes = [fire.outcome for fire in await fires_of(store)]
    assert [outcome.partition(":")[0] for outcome in outcomes] == ["not looked at", "accepted"]
    assert "max_history" in outcomes[0]
    found = await store.trigger("e")
    assert found is not None
    assert (found.fired, found.missed) == (1, 0)
