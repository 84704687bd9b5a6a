"""Who is admitted when a place is free, compared with a model that looks at everybody who waits."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from colony.models import ReportStatus
from colony.store import Store
from tests.store.fixtures import OpenColony
from tests.store.kit import SOON, accepted, claim, join, new_workers, success

HOUR = timedelta(hours=1)
AGENTS, KEYS, TRIGGERS = ("a", "b", "c"), (None, "k", "l"), (None, None, "t")
CAPS = {"colony": 6, "agent:a": 2, "agent:b": 4, "key": 2}
OF_TRIGGER = 2


@dataclass
class Worker:
    """One, as the model knows it. `counted`: it has had a place, and its trigger counts it until it ends."""

    id: str
    turn: tuple[int, int]
    agent: str
    key: str | None
    trigger: str | None
    state: str = "waits"
    counted: bool = False


@dataclass
class Model:
    """First come, first served, by looking at all."""

    workers: dict[str, Worker] = field(default_factory=dict)
    caps: dict[str, int | None] = field(default_factory=lambda: dict(CAPS))

    def of(self, state: str) -> list[Worker]:
        """Those in a state, in their turn."""
        found = [worker for worker in self.workers.values() if worker.state == state]
        return sorted(found, key=lambda worker: worker.turn)

    def may_run(self, worker: Worker) -> bool:
        """Whether there is a place under each of its caps."""
        active = self.of("active")
        counted = [
            w for w in self.workers.values() if w.trigger and w.counted and w.state != "ended"
        ]
        return (
            self._below("colony", len(active))
            and self._below(f"agent:{worker.agent}", sum(w.agent == worker.agent for w in active))
            and (not worker.key or self._below("key", sum(w.key == worker.key for w in active)))
            and (not worker.trigger or worker.counted or len(counted) < OF_TRIGGER)
        )

    def take(self, worker: Worker) -> None:
        """It has a place."""
        worker.state, worker.counted = "active", True

    def admit(self) -> None:
        """Whoever is next, until nobody may run."""
        while able := [worker for worker in self.of("waits") if self.may_run(worker)]:
            self.take(able[0])

    def _below(self, cap: str, count: int) -> bool:
        most = self.caps.get(cap)
        return most is None or count < most


class Twin:
    """The store and the model, side by side."""

    def __init__(self, store: Store, seed: int) -> None:
        self.store, self.model, self.dice = store, Model(), random.Random(seed)

    async def accept(self) -> None:
        """Some of one kind, each call in one script."""
        kind = {"agent": self.dice.choice(AGENTS)}
        key, trigger = self.dice.choice(KEYS), self.dice.choice(TRIGGERS)
        kind |= {"ckey": key} if key else {}
        kind |= {"trigger": trigger} if trigger else {}
        priority = self.dice.choice((0, 0, 0, 1, -1))
        workers = new_workers(self.dice.randint(1, 5), priority=str(priority), **kind)
        _, ids = await self.store.accept(workers, ring_again_after=SOON)
        for worker_id in ids:
            turn = (-priority, len(self.model.workers))
            made = Worker(worker_id, turn, kind["agent"], key, trigger)
            self.model.workers[worker_id] = made
        self.model.admit()

    async def end(self) -> None:
        """One that is active."""
        if (worker := self._one("active")) is not None:
            await claim(self.store, worker.id)
            await self.store.settle(worker.id, "t1", success())
            worker.state = "ended"
            self.model.admit()

    async def park(self) -> None:
        """One that is active, for an hour."""
        if (worker := self._one("active")) is not None:
            await claim(self.store, worker.id)
            await self.store.park(worker.id, "t1", HOUR, ring_again_after=SOON)
            worker.state = "parked"
            self.model.admit()

    async def wake(self) -> None:
        """One of those before its time: it goes on at once where there is a place, else it lines up."""
        if (worker := self._one("parked")) is not None:
            await self.store.link.call("ZADD", self.store.keys("due"), 1, f"wake:{worker.id}")
            await self.store.wake(worker.id, ring_again_after=SOON)
            worker.state = "waits"
            if self.model.may_run(worker):
                self.model.take(worker)

    async def stop(self) -> None:
        """One that waits."""
        if (worker := self._one("waits")) is not None:
            await self.store.stop(
                worker.id, status=ReportStatus.STOPPED, reason="so", grace=timedelta(0)
            )
            worker.state = "ended"

    async def limit(self) -> None:
        """Another cap, or that of the definition again."""
        cap, most = self.dice.choice(list(CAPS)), self.dice.choice((None, 1, 3, 100))
        await self.store.set_limit(cap, most)
        self.model.caps[cap] = CAPS[cap] if most is None else most
        self.model.admit()

    async def compare(self) -> None:
        """Those who are active are the same."""
        active: set[str] = set()
        for state in ("PENDING", "RUNNING"):
            active |= set(
                await self.store.link.call("ZRANGE", self.store.keys("state", state), 0, -1)
            )
        assert active == {worker.id for worker in self.model.of("active")}

    def _one(self, state: str) -> Worker | None:
        found = self.model.of(state)
        return self.dice.choice(found) if found else None


@pytest.mark.parametrize("seed", range(20))
async def test_whoever_is_first_and_may_run_is_admitted(open_colony: OpenColony, seed: int) -> None:
    """Under caps of all kinds, with priorities, parking, waking, stopping, and caps that change."""
    store = await open_colony(
        **{f"cap:{cap}": most for cap, most in CAPS.items()}, definition_capped=1
    )
    await store.put_trigger("t", "{}", kind="manual", most=OF_TRIGGER, policy="queue")
    await join(store)
    twin = Twin(store, seed)
    steps = (twin.accept, twin.accept, twin.end, twin.end, twin.end, twin.park, twin.wake)
    for _ in range(60):
        await twin.dice.choice((*steps, twin.stop, twin.limit))()
        await twin.compare()


async def test_however_many_wait_under_a_full_cap_they_are_in_nobodys_way(
    open_colony: OpenColony,
) -> None:
    """Hundreds of a key that is taken, of an agent, of a trigger: who is under none of these runs at once."""
    caps: dict[str, str | int] = {"cap:key": 1, "cap:agent:a": 1, "cap:colony": 10}
    store = await open_colony(**caps, definition_capped=1)
    await store.put_trigger("t", "{}", kind="manual", most=1, policy="queue")
    for kind in ({"ckey": "k"}, {"agent": "a"}, {"trigger": "t"}):
        await store.accept(new_workers(300, **{"agent": "b", **kind}), ring_again_after=SOON)
    workers = new_workers(3, agent="b") + new_workers(1, agent="b", ckey="l")
    _, free = await store.accept(workers, ring_again_after=SOON)
    pending = await store.link.call("ZRANGE", store.keys("state", "PENDING"), 0, -1)
    assert set(free) < set(pending)
    assert len(pending) == 3 + len(free)


async def test_many_whose_cap_is_full_when_their_turn_comes_step_aside(
    open_colony: OpenColony,
) -> None:
    """They wait for the colony; once one of them runs its agent's cap is full. Who comes behind a thousand of
    them is admitted with the next places, or by the next sweeps."""
    store = await open_colony(**{"cap:agent:a": 1, "cap:colony": 1}, definition_capped=1)
    await join(store)
    [first] = await accepted(store)
    await store.accept(new_workers(1200, agent="a"), ring_again_after=SOON)
    _, [last] = await store.accept(new_workers(1, agent="b"), ring_again_after=SOON)
    await store.set_limit("colony", 2)
    await claim(store, first)
    await store.settle(first, "t1", success())
    for _ in range(2):
        await store.sweep(interval=timedelta(0), lease=HOUR, cap=100)
    pending = await store.link.call("ZRANGE", store.keys("state", "PENDING"), 0, -1)
    assert last in pending
    assert len(pending) == 2


async def test_first_in_first_out_within_a_batch_and_between_batches(
    open_colony: OpenColony,
) -> None:
    """Also of those that were accepted in the same millisecond."""
    store = await open_colony(**{"cap:colony": 1, "definition_capped": 1})
    await join(store)
    expected = [
        worker_id
        for _ in range(4)
        for worker_id in (await store.accept(new_workers(5), ring_again_after=SOON))[1]
    ]
    seen = []
    for _ in expected:
        [worker_id] = await store.link.call("ZRANGE", store.keys("state", "PENDING"), 0, -1)
        seen.append(worker_id)
        await claim(store, worker_id)
        await store.settle(worker_id, "t1", success())
    assert seen == expected
