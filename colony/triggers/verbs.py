"""The verbs of triggers, part of `ColonyRuntime`: fire them, and put, pause and look at them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pydantic import JsonValue

from colony.errors import InvalidTask, InvalidTrigger, UnknownTrigger, UnreadableTrigger
from colony.models import FireRecord, TriggerInfo
from colony.operations import Operations, unknown_colony
from colony.sizes import check_limit, check_spec
from colony.triggers.firing import Fired, Firing, Occasion, check_agent, unknown_trigger
from colony.triggers.keeping import next_times, put
from colony.triggers.spec import TriggerSpec

log = logging.getLogger("colony.triggers")


class TriggerVerbs(Operations):
    """What producers and operators do with triggers.

    Every verb raises `UnknownTrigger` for one that is not there, and those that need to know what it says
    raise `UnreadableTrigger` where this version of Colony cannot read it.
    """

    async def trigger(
        self,
        trigger_id: str,
        input: Mapping[str, JsonValue] | None = None,
        *,
        idempotency_key: str | None = None,
        caller: str | None = None,
    ) -> str:
        """Fire a trigger of any type now; returns the id of the worker that it spawns.

        `input` is in the worker's data as ``input``, and its task may name it. The same
        `idempotency_key` within `idempotency_ttl` returns the first answer and spawns nothing. Raises
        `TriggerPaused`, `TriggerBusy` where `max_concurrent` of its workers live (policy ``skip``),
        `InvalidTask` where its task names what is not there, or `input` is no JSON.
        """
        if input is not None and not isinstance(input, Mapping):
            raise InvalidTask(
                f"input: expected an object, names and their values, got {type(input).__name__}"
            )
        values: dict[str, JsonValue] = {"input": dict(input or {})}
        spec = await self._trigger_spec(trigger_id)
        source = spec.trigger_type.value if spec.trigger_type.value in ("api", "manual") else "api"
        occasion = Occasion(source, values, idempotency_key, caller=caller)
        return (await self.fire(spec, occasion)).worker_id

    async def fire(self, spec: TriggerSpec, occasion: Occasion) -> Fired:
        """Fire a trigger by what came in, as the gateway does for webhooks."""
        return await (await self._firing()).fire(spec, occasion)

    async def trigger_at(self, path: str) -> TriggerSpec | None:
        """The trigger that webhooks on this path fire."""
        trigger_id = await self._store.trigger_at(path)
        return None if trigger_id is None else await self._trigger_spec(trigger_id)

    async def put_trigger(self, spec: TriggerSpec | dict[str, Any]) -> TriggerSpec:
        """Add or change a trigger while the fleet runs. Raises `InvalidTrigger`, which names the field."""
        checked = TriggerSpec.of(spec)
        check_spec(f"trigger {checked.id!r}", checked, InvalidTrigger)
        limits, _ = await self._limits()
        check_agent(checked, limits)
        await put(self._store, checked)
        return checked

    async def remove_trigger(self, trigger_id: str) -> None:
        """Forget a trigger and its history; its workers live on."""
        if not await self._store.remove_trigger(trigger_id):
            raise unknown_trigger(trigger_id)

    async def list_triggers(self) -> list[TriggerInfo]:
        """All triggers, by id. Raises `UnknownColony`."""
        found = await self._store.triggers()
        if not found:
            await self._must_be_known()
        return found

    async def get_trigger(self, trigger_id: str) -> TriggerInfo:
        """One trigger, with what became of it."""
        found = await self._store.trigger(trigger_id)
        if found is None:
            raise unknown_trigger(trigger_id)
        return found

    async def get_fires(self, trigger_id: str, limit: int = 100) -> list[FireRecord]:
        """Its latest fires, newest first, those too that came to nothing."""
        check_limit(limit)
        await self._kept_trigger(trigger_id)
        return await self._store.fires(trigger_id, limit)

    async def next_fire_in(self, trigger_id: str) -> timedelta | None:
        """How long until a timer is due, by Redis' clock; None for one that is paused, or is no timer."""
        info = await self.get_trigger(trigger_id)
        if info.next_due is None or await self._store.timers_held():
            return None
        now = await self._store.now_ms()
        return timedelta(milliseconds=max(0, info.next_due.timestamp() * 1000 - now))

    async def pause_trigger(self, trigger_id: str) -> None:
        """It fires no more, whatever comes, until `resume_trigger`."""
        if not await self._store.pause_trigger(trigger_id):
            raise unknown_trigger(trigger_id)

    async def resume_trigger(self, trigger_id: str) -> None:
        """It fires again; a timer from its next time on, what it missed in the pause is not made good."""
        spec = await self._trigger_spec(trigger_id)
        due, slot = 0, 0
        if spec.timer is not None:
            due, slot = next_times(spec.id, spec.timer, await self._store.now_ms())
        if not await self._store.resume_trigger(trigger_id, due=due, slot=slot):
            raise unknown_trigger(trigger_id)

    async def pause_timers(self) -> None:
        """No timer fires until `resume_timers`. Raises `UnknownColony`."""
        if await self._store.hold_timers(hold=True) is None:
            raise unknown_colony(self.colony_id)

    async def resume_timers(self) -> None:
        """Timers fire again, from their next times on; what they missed in the pause is not made good."""
        passed = await self._store.hold_timers(hold=False)
        if passed is None:
            raise unknown_colony(self.colony_id)
        for trigger_id in passed:
            try:
                await self._set_forward(trigger_id)
            except UnknownTrigger:
                pass  # removed meanwhile
            except UnreadableTrigger as error:  # the others go on
                log.error("it does not fire: %s", error)
        await self._store.release_timers()

    async def _set_forward(self, trigger_id: str) -> None:
        timer = (await self._trigger_spec(trigger_id)).timer
        if timer is not None:
            due, slot = next_times(trigger_id, timer, await self._store.now_ms())
            await self._store.set_timer(trigger_id, due=due, slot=slot)

    async def _trigger_spec(self, trigger_id: str) -> TriggerSpec:
        return TriggerSpec.kept(trigger_id, await self._kept_trigger(trigger_id))

    async def _kept_trigger(self, trigger_id: str) -> str:
        found = await self._store.trigger_spec(trigger_id)
        if found is None:
            await self._must_be_known()
            raise unknown_trigger(trigger_id)
        return found

    async def _must_be_known(self) -> None:
        if "id" not in await self._store.face():
            raise unknown_colony(self.colony_id)

    async def _firing(self) -> Firing:
        return Firing(self._spawner(), await self._entrance(), self.settings.stop_grace)
