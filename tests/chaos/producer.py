"""What clients do meanwhile: spawn, wait, stop, follow. Each call and its answer goes to the history."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from colony.errors import ColonyError, StoreUnavailable
from colony.models import Event, EventType
from colony.runtime import ColonyRuntime
from colony.spawning import Batch
from tests.chaos.history import History
from tests.chaos.world import World

KINDS = ("plain",) * 6 + ("long", "sleeper", "sleeper", "parent", "parent", "delegate")
POLICIES = ("all", "all", "all", "any", "first_n")
DEADLINES = (None, None, None, None, 1.5, 4.0)
PAUSE_SECONDS = (0.1, 0.5)
AGAIN_SECONDS = 0.2
MOST_OPEN = 80
"""So many workers may be unfinished before nothing more is spawned, for small machines."""


class Producer:
    """One producer. `run` until it is `closing`; `answered` are the workers it knows to be accepted."""

    def __init__(self, runtime: ColonyRuntime, world: World, history: History, seed: int) -> None:
        self.runtime, self.world, self.history = runtime, world, history
        self.answered: list[str] = []
        self.closing = False
        self._dice = random.Random(seed)
        self._calls = 0
        self._waiting: set[asyncio.Task[None]] = set()
        self._done: set[str] = set()

    async def run(self) -> None:
        """Spawn all the time, and do what the schedule asks for."""
        while not self.closing:
            if self.world.wanted_killers:
                self.world.wanted_killers -= 1
                await self.spawn(["killer"], None)
            if self.world.wanted_stops:
                self.world.wanted_stops -= 1
                await self._stop_one()
            if len(self.answered) - len(self._done) < MOST_OPEN:
                await self._spawn_some()
            await asyncio.sleep(self._dice.uniform(*PAUSE_SECONDS))

    async def _spawn_some(self) -> None:
        deadline = self._dice.choice(DEADLINES)
        if self._dice.random() < 0.5:
            count = self._dice.randint(1, 5)
            policy = self._dice.choice(POLICIES)
            await self.spawn(self._dice.choices(KINDS, k=count), deadline, policy=policy)
        else:
            await self.spawn([self._dice.choice(KINDS)], deadline)

    async def spawn(
        self, kinds: Sequence[str], deadline: float | None, *, policy: str | None = None
    ) -> None:
        """Until it is answered, with one idempotency key; then wait for the reports beside. With a
        `policy` they are a batch."""
        self._calls += 1
        request = f"r{self._calls}"
        names = [f"{request}x{index}" for index in range(len(kinds))]
        tasks = [f"{kind} {name}" for kind, name in zip(kinds, names, strict=True)]
        options: dict[str, Any] = {
            "idempotency_key": request,
            "deadline": None if deadline is None else timedelta(seconds=deadline),
        }
        if policy is not None:
            first = self._dice.randint(1, len(kinds)) if policy == "first_n" else None
            options |= {"policy": policy, "first_n": first}
        while True:
            self.history.add("call", verb="spawn", of=request, names=names, deadline=deadline)
            try:
                ids = await self._call(tasks, options)
            except StoreUnavailable as error:
                self.history.add("error", of=request, error=str(error))
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            break
        known: dict[str, Any] = {"batch": ids.id} if isinstance(ids, Batch) else {}
        self.history.add("answer", of=request, names=names, workers=list(ids), **known)
        self.answered += ids
        task = asyncio.create_task(self._wait(request, list(ids)))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _call(self, tasks: list[str], options: dict[str, Any]) -> list[str]:
        if "policy" in options:
            return await self.runtime.spawn_batch(tasks, **options)
        return await self.runtime.spawn(tasks[0], **options)

    async def _wait(self, request: str, ids: list[str]) -> None:
        """As a client does: for ever, also while Redis is away."""
        for worker in ids:
            report = await self._until_answered(self.runtime.wait_for_worker, worker)
            self._done.add(worker)
            self.history.add("answer", of=request, reports={worker: report.status.value})

    async def _until_answered(self, verb: Any, *arguments: Any) -> Any:
        while True:
            with suppress(StoreUnavailable):
                answering: Awaitable[Any] = verb(*arguments)
                return await answering
            await asyncio.sleep(AGAIN_SECONDS)

    async def _stop_one(self) -> None:
        open_ones = [worker for worker in self.answered if worker not in self._done]
        if not open_ones:
            return
        worker = self._dice.choice(open_ones)
        self.history.add("call", verb="stop", of=worker)
        try:
            verdict = await self.runtime.stop_worker(worker)
        except ColonyError as error:
            self.history.add("error", of=worker, error=str(error))
        else:
            self.history.add("answer", of=worker, stopped=verdict)

    async def all_reported(self) -> None:
        """Until every waiter has its answer."""
        while self._waiting:
            await asyncio.wait(self._waiting)

    async def give_up(self) -> None:
        """Wait no longer; note whose reports nobody was told of, though they had all the time to be."""
        if self._waiting:
            left = [worker for worker in self.answered if worker not in self._done]
            self.history.add("unanswered", workers=left)
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)


class Follower:
    """Notes every event, from the first one, across every trouble. `last` is the last one's id."""

    def __init__(self, runtime: ColonyRuntime, history: History) -> None:
        self.last = "0"
        self._runtime, self._history = runtime, history

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            with suppress(StoreUnavailable):
                async for event in self._runtime.events(after=self.last):
                    self._note(event)
            await asyncio.sleep(AGAIN_SECONDS)

    def _note(self, event: Event) -> None:
        if event.id is None and event.type != EventType.GAP:
            return
        self.last = event.id or self.last
        about = {"id": event.id, "type": str(event.type), "worker_id": event.worker_id}
        self._history.add("event", **about, data=event.data, redis_at=event.at.timestamp())
