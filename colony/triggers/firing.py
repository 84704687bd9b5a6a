"""Firing: from what came in to one accepted worker, for timers, webhooks, events and callers alike.

    what came in ─▶ data under a key of its own ─▶ task from the template ─▶ pipeline ─▶ accept, with the fire

The store decides whether the trigger may fire, in the script that accepts the worker: a timer is set forward
there, and nowhere else, so it fires once however many ringers there are, and whatever their clocks say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from pydantic import JsonValue

from colony.errors import (
    ColonyError,
    InvalidTask,
    InvalidTrigger,
    SpawnRefused,
    StoreUnavailable,
    TriggerBusy,
    TriggerPaused,
    UnknownTrigger,
    UnreadableTrigger,
)
from colony.intake import Entrance
from colony.models import TaskSpec, from_ms
from colony.spawning import Spawner, SpawnOptions
from colony.store import Ring
from colony.store.base import millis
from colony.store.records import derived_id, new_worker_id
from colony.store.triggers import DueTimer, Fire, NotFired
from colony.tasks import Limits, check_task
from colony.triggers.schedule import Plan, plan
from colony.triggers.spec import TriggerSpec
from colony.triggers.template import fill

log = logging.getLogger("colony.triggers")

MANY_SLOTS = 50
"""Times of a cron, some 20 µs each: more are counted in a thread."""


@dataclass(frozen=True, slots=True)
class Occasion:
    """What fires a trigger: from where, what it brought, and what it must not be accepted twice by.

    `key`: one worker for each, however often it comes within `remember` (None: the colony's
    `idempotency_ttl`). `cause`: the triggers that led to it. `caller`:
    the id of the API token that it came with.
    """

    source: str
    values: Mapping[str, JsonValue]
    key: str | None = None
    remember: timedelta | None = None
    cause: Sequence[str] = ()
    caller: str | None = None


@dataclass(frozen=True, slots=True)
class Fired:
    """The worker of a fire; `first`: it was spawned by this one, not by an earlier one with its key."""

    worker_id: str
    first: bool


@dataclass(frozen=True, slots=True)
class PlannedTimer:
    """A timer that is due, and what is to become of its times."""

    spec: TriggerSpec
    due: DueTimer
    plan: Plan


@dataclass(frozen=True, slots=True)
class Firing:
    """Fires the triggers of one colony. `refusals`: why timers that it was to fire stay due."""

    spawner: Spawner
    entrance: Entrance
    stop_grace: timedelta
    refusals: list[SpawnRefused] = field(default_factory=list)

    async def fire(self, spec: TriggerSpec, occasion: Occasion) -> Fired:
        """One worker, and its doorbell rung; the one of the first answer for the same key.

        Raises `UnknownTrigger`, `TriggerPaused`, `TriggerBusy` or another `SpawnRefused`, `InvalidTask`,
        `PipelineRejected`.
        """
        trigger = {"id": spec.id, "type": spec.trigger_type.value}
        long = None if occasion.remember is None else millis(occasion.remember)
        fire = Fire(spec.id, occasion.source, grace_ms=self._grace, remember_ms=long)
        worker_id = new_worker_id()
        ids, rings = await self._accept(spec, occasion, trigger, fire, worker_id)
        await self.spawner.bell.ring(rings)
        return Fired(ids[0], ids[0] == worker_id)

    async def fire_timer(self, due: DueTimer, now: int) -> list[Ring]:
        """What is to be fired of a timer that is due, in order; returns whom to ring for.

        What came to nothing stands in the trigger's history; one that the colony does not take now (paused,
        full) stays due, and that is in `refusals`. Raises `StoreUnavailable`: it stays due.
        """
        planned = await self.plan_timer(due, now)
        return [] if planned is None else await self.fire_planned(planned)

    async def plan_timer(self, due: DueTimer, now: int) -> PlannedTimer | None:
        """What is to be fired of it; None for nothing. The many times of a cron that nobody rang for are
        counted in a thread: it may take a while, and agents run on this loop."""
        try:
            spec = TriggerSpec.kept(due.trigger_id, due.spec)
        except UnreadableTrigger as error:
            log.error("it does not fire: %s", error)
            return None
        timer = spec.timer
        if timer is None:
            return None
        schedule = timer.schedule()
        planning = partial(
            plan,
            schedule,
            spec.id,
            due.slot,
            now,
            misfire=timer.misfire,
            grace=timer.misfire_grace,
            at_most=timer.max_catch_up,
        )
        is_long = schedule.most_slots(due.slot, now) > MANY_SLOTS
        return PlannedTimer(spec, due, await asyncio.to_thread(planning) if is_long else planning())

    async def fire_planned(self, what: PlannedTimer) -> list[Ring]:
        """Fire it, as `fire_timer` does."""
        spec, planned = what.spec, what.plan
        expected, missed = what.due.due, planned.missed
        if not planned.fires:
            passed = self._timer_fire(spec, what.due.slot, expected, planned.next_slot, missed)
            await self.spawner.store.pass_over(passed, "skipped: missed")
            return []
        rings: list[Ring] = []
        following = [*planned.fires[1:], planned.next_slot]
        for slot, next_slot in zip(planned.fires, following, strict=True):
            fire = self._timer_fire(spec, slot, expected, next_slot, missed)
            rings += await self._fire_slot(spec, fire)
            if self.refusals:
                break  # the rest stays due, too
            expected, missed = fire.next_due or 0, 0
        return rings

    def _timer_fire(
        self, spec: TriggerSpec, slot: int, due: int, next_slot: int, missed: int
    ) -> Fire:
        timer = spec.timer
        assert timer is not None
        idle = timer.skip_when_active_within
        return Fire(
            spec.id,
            "timer",
            missed=missed,
            due=due,
            slot=slot,
            next_due=timer.schedule().due(spec.id, next_slot),
            next_slot=next_slot,
            idle_ms=None if idle is None else int(idle.total_seconds() * 1000),
            grace_ms=self._grace,
        )

    async def _fire_slot(self, spec: TriggerSpec, fire: Fire) -> list[Ring]:
        assert fire.slot is not None
        trigger: dict[str, JsonValue] = {
            "id": spec.id,
            "type": "timer",
            "due": from_ms(fire.slot).isoformat(),
            "missed": fire.missed,
        }
        colony_id = self.spawner.store.colony_id
        worker_id = derived_id(colony_id, spec.id, fire.slot)
        try:
            _, rings = await self._accept(spec, Occasion("timer", {}), trigger, fire, worker_id)
        except (TriggerPaused, TriggerBusy, UnknownTrigger):
            return []  # the store has noted it, or another ringer was first
        except StoreUnavailable:
            raise  # the slot stays due: passing it over now, if Redis is there again, would lose it
        except SpawnRefused as error:
            self.refusals.append(error)
            return []
        except ColonyError as error:
            log.error("timer %s did not fire: %s", spec.id, error)
            await self.spawner.store.pass_over(fire, f"refused: {error}"[:500])
            return []
        return rings

    async def _accept(
        self,
        spec: TriggerSpec,
        occasion: Occasion,
        trigger: Mapping[str, JsonValue],
        fire: Fire,
        worker_id: str,
    ) -> tuple[list[str], list[Ring]]:
        values: dict[str, JsonValue] = {**occasion.values, "trigger": dict(trigger)}
        key = None if occasion.key is None else f"trigger/{spec.id}/{occasion.key}"
        if first := await self.entrance.first_answer(key):
            return first, []
        task = await self.entrance.admit(
            self._task(spec, values),
            1,
            caller=occasion.caller,
            idempotency_key=key or worker_id,
            entry=spec.id,
        )
        options = SpawnOptions(
            deadline=spec.deadline,
            priority=spec.priority,
            idempotency_key=key,
            soft_deadline=spec.soft_deadline,
            trigger_id=spec.id,
            max_resurrections=spec.max_resurrections,
            cause=[*occasion.cause, f"{self.spawner.store.colony_id}/{spec.id}"],
        )
        try:
            return await self.spawner.accept(
                [worker_id], [task], self.entrance.config, options, fire=fire
            )
        except NotFired as refused:
            raise not_fired(spec.id, refused.reason) from None

    def _task(self, spec: TriggerSpec, values: dict[str, JsonValue]) -> TaskSpec:
        try:
            text = fill(spec.task, {**values, "data": spec.data})
        except ValueError as error:
            raise InvalidTask(f"trigger {spec.id!r}: its task {error}") from error
        return check_task(text, {**spec.data, **values}, spec.agent, 1, self.entrance.limits)[0]

    @property
    def _grace(self) -> str:
        return str(int(self.stop_grace.total_seconds() * 1000))


def not_fired(trigger_id: str, reason: str) -> ColonyError:
    """The error for a store's answer."""
    if reason == "unknown":
        return unknown_trigger(trigger_id)
    if reason in ("paused", "early", "fired"):
        return TriggerPaused(
            f"trigger {trigger_id!r} is {reason}: resume it, or wait for its next time"
        )
    why = "the fleet is active" if reason == "active" else "max_concurrent of its workers live"
    return TriggerBusy(f"trigger {trigger_id!r} was passed over: {why}")


def unknown_trigger(trigger_id: str) -> UnknownTrigger:
    """With what to do."""
    return UnknownTrigger(
        f"there is no trigger {trigger_id!r} in this colony: see list_triggers or `colony trigger list`"
    )


def check_agent(spec: TriggerSpec, limits: Limits) -> None:
    """Raises `InvalidTrigger` for an agent that the colony does not have."""
    if spec.agent is not None and limits.agents and spec.agent not in limits.agents:
        raise InvalidTrigger(
            f"agent: {spec.agent!r} is unknown; this colony has: {', '.join(sorted(limits.agents))}"
        )
