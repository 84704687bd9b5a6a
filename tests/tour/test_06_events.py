"""The tour, 6: the bridge tells what happens, live and again, without repeat and without silent gap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from colony import ColonyRuntime, Event, EventType
from colony.testing import Fleet, wait_until
from tests.tour.definitions import STORY
from tests.tour.helpers import report_of, told

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]


async def kept(runtime: ColonyRuntime, after: str = "0") -> list[Event]:
    """All kept events after an id."""
    return [event async for event in runtime.events(after=after, follow=False)]


def sequence(event: Event) -> int:
    """The number of a kept event; consecutive within a colony."""
    assert event.id is not None
    return int(event.id.partition("-")[2])


def ids_of(events: Iterable[Event]) -> list[str | None]:
    """The ids, for comparison."""
    return [event.id for event in events]


@asynccontextmanager
async def following(events: AsyncIterator[Event]) -> AsyncIterator[list[Event]]:
    """What a reader has heard so far, while it listens."""
    heard: list[Event] = []

    async def listen() -> None:
        async for event in events:
            heard.append(event)

    listener = asyncio.create_task(listen())
    try:
        yield heard
        assert not listener.done(), "a reader that follows has ended"
    finally:
        listener.cancel()
        await asyncio.wait([listener])


async def test_every_event_says_whose_it_is(runtime: ColonyRuntime) -> None:
    """Each event of a worker is stamped with colony, stream, execution and correlation; the ids of all
    kept events are consecutive."""
    [worker] = await runtime.spawn("echo", stream_id="chat-7", correlation_id="order-7")
    await report_of(runtime, worker)
    events = await told(runtime, worker)
    stamps = {
        (e.colony_id, e.stream_id, e.execution_id, e.worker_id, e.correlation_id) for e in events
    }
    assert stamps == {("tour", "chat-7", worker, worker, "order-7")}
    numbers = [sequence(event) for event in await kept(runtime)]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_filters_let_through_what_was_asked_for(runtime: ColonyRuntime) -> None:
    """Filters by type, stream and worker, alone and together, give exactly the events that match."""
    ids = [
        *(await runtime.spawn("echo", stream_id="left")),
        *(await runtime.spawn("echo", stream_id="right")),
        *(await runtime.spawn("fail", stream_id="right")),
    ]
    await runtime.wait_for_worker_reports(ids, timeout=15)
    everything = await kept(runtime)
    types = [EventType.SUBAGENT_REPORT, EventType.EXECUTION_FAILED]

    async def asked(**wanted: object) -> list[str | None]:
        found = runtime.events(after="0", follow=False, **wanted)  # type: ignore[arg-type]
        return ids_of([event async for event in found])

    of_types = [e for e in everything if e.type in types]
    of_right = [e for e in everything if e.stream_id == "right"]
    assert await asked(types=types) == ids_of(of_types)
    assert await asked(stream_id="right") == ids_of(of_right)
    assert {e.worker_id for e in of_right} == set(ids[1:])
    assert await asked(worker_id=ids[0]) == ids_of(e for e in everything if e.worker_id == ids[0])
    both = [e for e in of_right if e in of_types]
    assert len(both) == 3
    assert await asked(types=types, stream_id="right") == ids_of(both)
    assert await asked(types=types, stream_id="nowhere") == []


async def test_a_live_filter_is_the_same_filter(runtime: ColonyRuntime) -> None:
    """A reader that follows live hears what matches its filter, in order, and nothing else."""
    only = [EventType.SUBAGENT_REPORT]
    async with following(runtime.events(types=only, stream_id="live", after="0")) as heard:
        ids = await runtime.spawn("echo", count=3, stream_id="live")
        other = await runtime.spawn("echo", stream_id="elsewhere")
        await runtime.wait_for_worker_reports([*ids, *other], timeout=15)
        await wait_until(lambda: len(heard) >= 3, what="three reports are heard")
    assert {event.worker_id for event in heard} == set(ids)
    found = runtime.events(types=only, stream_id="live", after="0", follow=False)
    assert ids_of(heard) == [event.id async for event in found]


async def test_a_reader_that_comes_back_goes_on_where_it_was(runtime: ColonyRuntime) -> None:
    """Replay after an id, read while more is happening: what was heard before the break and after it
    is the whole story, without repeat and without gap."""
    ids = await runtime.spawn("echo", count=5)
    first: list[Event] = []
    async for event in runtime.events(after="0"):
        first.append(event)
        if len(first) == 20:
            break
    ids += await runtime.spawn("nap", count=5)
    async with following(runtime.events(after=first[-1].id)) as heard:
        await runtime.wait_for_worker_reports(ids, timeout=20)
        everything = await kept(runtime)
        await wait_until(lambda: len(first) + len(heard) >= len(everything), what="all is heard")
    assert ids_of([*first, *heard]) == ids_of(everything)
    assert ids_of(await kept(runtime, after=first[6].id or "")) == ids_of(everything[7:])


async def test_what_is_no_event_id_is_refused(runtime: ColonyRuntime) -> None:
    """An `after` that is no event id is an error that shows what one looks like."""
    with pytest.raises(ValueError, match="generation-sequence such as 1-42"):
        await kept(runtime, after="yesterday")


async def test_text_is_heard_live_and_not_kept(runtime: ColonyRuntime) -> None:
    """The text of a streaming model is heard in deltas that make up the whole, before its turn is
    complete; deltas have no id and are not told again, the turn is."""
    async with following(runtime.events(stream_id="story", after="0")) as heard:
        await runtime.spawn("fetch", stream_id="story")
        await wait_until(lambda: heard, what="the reader listens")
        [worker] = await runtime.spawn("tell a story", agent="teller", stream_id="story")
        assert (await report_of(runtime, worker)).summary == STORY
        ends = (EventType.SUBAGENT_REPORT, worker)
        await wait_until(
            lambda: ends in [(e.type, e.worker_id) for e in heard], what="the end is heard"
        )
    deltas = [event for event in heard if event.type == EventType.LLM_TEXT_DELTA]
    assert deltas
    assert "".join(str(delta.data["text"]) for delta in deltas) == STORY
    assert {(delta.id, delta.worker_id) for delta in deltas} == {(None, worker)}
    live = [event.type for event in heard if event.worker_id == worker]
    assert live.index(EventType.LLM_TURN_COMPLETE) > live.index(EventType.LLM_TEXT_DELTA)
    again = [event.type for event in await told(runtime, worker)]
    assert again == [kind for kind in live if kind != EventType.LLM_TEXT_DELTA]


async def test_a_slow_and_a_failing_subscriber_harm_nobody(runtime: ColonyRuntime) -> None:
    """One handler hangs on its first event, one raises on each: workers, waiters and the third
    subscriber do not notice, and the slow one then gets all events in their order."""
    go_on, slow, failing, healthy = asyncio.Event(), list[Event](), list[Event](), list[Event]()

    async def hang(event: Event) -> None:
        await go_on.wait()
        slow.append(event)

    def fail(event: Event) -> None:
        failing.append(event)
        raise RuntimeError("this subscriber is broken")

    subscriptions = [await runtime.subscribe(each) for each in (hang, fail, healthy.append)]
    try:
        ids = await runtime.spawn("echo", count=20)
        reports = await runtime.wait_for_worker_reports(ids, timeout=15)
        assert all(report.ok for report in reports)
        last = (await kept(runtime))[-1].id
        await wait_until(lambda: ids_of(healthy)[-1:] == [last], what="the healthy one hears all")
        await wait_until(lambda: ids_of(failing)[-1:] == [last], what="the failing one hears all")
        assert slow == []
        go_on.set()
        await wait_until(lambda: ids_of(slow)[-1:] == [last], what="the slow one has caught up")
    finally:
        for subscription in subscriptions:
            await subscription.close()
    for each in (slow, failing, healthy):
        numbers = [sequence(event) for event in each if event.id is not None]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert EventType.GAP not in {event.type for event in each}
    assert ids_of(slow) == ids_of(healthy) == ids_of(failing)


async def test_a_closed_subscription_hears_no_more(runtime: ColonyRuntime) -> None:
    """After close() the handler is not called again."""
    heard: list[Event] = []
    subscription = await runtime.subscribe(heard.append)
    [worker] = await runtime.spawn("fetch")
    ended = (EventType.SUBAGENT_REPORT, worker)
    await wait_until(lambda: ended in [(e.type, e.worker_id) for e in heard], what="it listens")
    await subscription.close()
    count = len(heard)
    async with following(runtime.events(after=heard[-1].id)) as others:
        await report_of(runtime, (await runtime.spawn("fetch"))[0])
        await wait_until(lambda: others, what="others hear more")
    assert len(heard) == count


async def test_what_the_history_has_lost_is_announced(tour: Fleet) -> None:
    """max_history has taken events: a reader that asks for them is told first how many are missing,
    through every filter, and then gets the rest; a reader that was there misses nothing."""
    async with Fleet(
        "tests.tour.definitions:steady", redis_url=tour.redis_url, max_history="100"
    ) as short:
        runtime = short.runtime
        async with following(runtime.events(after="0")) as heard:
            ids = await runtime.spawn("fetch", count=100)
            await runtime.wait_for_worker_reports(ids, timeout=20)
            total = (await runtime.get_stats()).events
            await wait_until(lambda: heard and sequence(heard[-1]) == total, what="all is heard")
        assert [sequence(event) for event in heard] == list(range(1, total + 1))

        gap, *rest = await kept(runtime)
        assert gap.type == EventType.GAP
        assert gap.id is None
        assert gap.data["missed"] == sequence(rest[0]) - 1 == total - len(rest) > 0
        assert ids_of(rest) == ids_of(heard[-len(rest) :])
        assert 100 <= len(rest) < total
        nothing = runtime.events(types=["no_such_type"], after="0", follow=False)
        assert [event.type async for event in nothing] == [EventType.GAP]
        recent = rest[0].id or ""
        assert ids_of(await kept(runtime, after=recent)) == ids_of(rest[1:])
