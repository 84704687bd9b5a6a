"""Triggers in the store: what they are, when timers are due, and what became of their fires."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pydantic_core import from_json

from colony.models import FireRecord, TriggerInfo, from_ms
from colony.store.base import StoreBase, millis, pairs

MAX_TRIGGERS = 20_000
"""Most triggers of a colony."""


class NotFired(Exception):
    """A trigger did not fire: `reason` is unknown, paused, early, fired, active or busy."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Fire:
    """One fire. A timer's has `due` (what its next time must still be) and what that is to be then.

    `idle_ms`: it is passed over where the fleet was active within this time; `grace_ms`: how long a
    running worker that is replaced may take to end; `remember_ms`: how long its idempotency key is known,
    where that is not for the colony to say.
    """

    trigger: str
    source: str
    missed: int = 0
    due: int | None = None
    slot: int | None = None
    next_due: int | None = None
    next_slot: int | None = None
    idle_ms: int | None = None
    grace_ms: str = "2000"
    remember_ms: int | None = None

    def to_json(self) -> str:
        """For the scripts; what is None is left out."""
        given = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, slots=True)
class Times:
    """When a timer is due next, and `digest`, by which its times are known to be the same. `at_once`: due and
    slot instead of these where it is a timer for the first time."""

    digest: str
    due: int
    slot: int
    at_once: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class DueTimer:
    """A timer that is due. `spec` is empty where it was removed in this very moment."""

    trigger_id: str
    spec: str
    due: int
    slot: int


class TriggerKeeping(StoreBase):
    """What is done with triggers; a fire itself is part of `accept`."""

    async def put_trigger(
        self,
        trigger_id: str,
        spec: str,
        *,
        kind: str,
        most: int | None,
        policy: str,
        route: str = "",
        times: Times | None = None,
        declared: str = "",
        watched: tuple[str, str] = ("", ""),
        gives_way: tuple[str, str] = ("", ""),
    ) -> Sequence[str]:
        """Keep a trigger; `watched`: the colony whose events fire it, and the latest of them; `gives_way`:
        another that is put next, without this route, and the digest of its declaration then. The answers
        are those of ``lua/put_trigger.lua``."""
        reply = await self.run(
            "put_trigger",
            trigger_id,
            spec,
            kind,
            "" if most is None else most,
            policy,
            route,
            *(("", 0, 0) if times is None else (times.digest, times.due, times.slot)),
            declared,
            MAX_TRIGGERS,
            *watched,
            *((times and times.at_once) or ("", "")),
            *gives_way,
        )
        return [str(word) for word in reply]

    async def remove_trigger(self, trigger_id: str, *, undeclared: bool = False) -> bool:
        """Forget a trigger; False where there was none."""
        return bool(await self.run("remove_trigger", trigger_id, int(undeclared)) == "ok")

    async def pause_trigger(self, trigger_id: str) -> bool:
        """It fires no more; False where there is none."""
        return bool(await self.run("pause_trigger", trigger_id, 1, "", "") == "ok")

    async def resume_trigger(self, trigger_id: str, *, due: int = 0, slot: int = 0) -> bool:
        """It fires again, a timer first at `due`; False where there is none."""
        return bool(await self.run("pause_trigger", trigger_id, 0, due, slot) == "ok")

    async def hold_timers(self, *, hold: bool) -> list[str] | None:
        """Hold all timers. Let go on, those are named whose time has passed meanwhile; they are still held
        until `release_timers`. None: the colony is unknown."""
        reply = await self.run("pause_timers", int(hold))
        return list(reply[1]) if reply[0] == "ok" else None

    async def release_timers(self) -> None:
        """All timers go on."""
        await self.link.call("HDEL", self.keys("meta"), "timers_paused")

    async def timers_held(self) -> bool:
        """Whether all timers are held."""
        return await self.link.call("HGET", self.keys("meta"), "timers_paused") is not None

    async def watchers(self, interval: timedelta) -> list[tuple[str, str, str]]:
        """The triggers that events fire: id, specification (JSON), cursor; none where another node has
        asked within the interval."""
        flat = await self.run("watchers", millis(interval))
        return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3) if flat[i + 1]]

    async def set_cursor(self, trigger_id: str, watched: str, before: str, cursor: str) -> bool:
        """Up to where a trigger has seen the events of a colony; False where its cursor is not `before`."""
        return bool(await self.run("set_cursor", trigger_id, watched, before, cursor) == "ok")

    async def set_timer(self, trigger_id: str, *, due: int, slot: int) -> None:
        """Set a timer's next time, if it has one."""
        await self.run("set_timer", trigger_id, due, slot)

    async def due_timers(self, cap: int) -> tuple[int, list[DueTimer]]:
        """Redis' time in ms, and timers that are due and that nobody else is ringing for."""
        now, *flat = await self.run("due_timers", cap)
        due = [
            DueTimer(flat[i], flat[i + 1], int(float(flat[i + 2])), int(float(flat[i + 3])))
            for i in range(0, len(flat), 4)
        ]
        return int(now), due

    async def pass_over(self, fire: Fire, why: str) -> bool:
        """Note a fire that does not come to be; a timer is set forward. False: another was first,
        or the trigger was removed."""
        return bool(await self.run("pass_over", fire.to_json(), why) == "ok")

    async def trigger_spec(self, trigger_id: str) -> str | None:
        """A trigger's specification (JSON)."""
        found = await self.link.call("HGET", self.keys("triggers"), trigger_id)
        return None if found is None else str(found)

    async def trigger_at(self, route: str) -> str | None:
        """The trigger that webhooks on this path fire."""
        found = await self.link.call("HGET", self.keys("routes"), route)
        return None if found is None else str(found)

    async def declared_triggers(self) -> list[str]:
        """The triggers that were put by a definition."""
        return list(await self.link.call("HKEYS", self.keys("declared")))

    async def triggers(self) -> list[TriggerInfo]:
        """All of them, by id."""
        specs = pairs(await self._hash(self.keys("triggers")))
        return list(await asyncio.gather(*(self._info(t, specs[t]) for t in sorted(specs))))

    async def page_triggers(self, after: str, most: int) -> tuple[list[TriggerInfo], str | None]:
        """So many by id, behind `after` (empty: from the first), and behind which id there are more, if there
        are. Of the others only the ids are read."""
        ids = [each for each in sorted(await self._ids()) if each > after]
        page = ids[:most]
        specs = await self.link.call("HMGET", self.keys("triggers"), *page) if page else []
        there = [(t, str(spec)) for t, spec in zip(page, specs, strict=True) if spec is not None]
        found = await asyncio.gather(*(self._info(t, spec) for t, spec in there))
        return list(found), page[-1] if len(ids) > most else None

    async def trigger(self, trigger_id: str) -> TriggerInfo | None:
        """One of them."""
        spec = await self.trigger_spec(trigger_id)
        return None if spec is None else await self._info(trigger_id, spec)

    async def fires(self, trigger_id: str, limit: int) -> list[FireRecord]:
        """The latest fires, newest first."""
        raw = await self.link.call("LRANGE", self.keys("fires", trigger_id), 0, limit - 1)
        return [_fire(from_json(entry)) for entry in raw]

    async def now_ms(self) -> int:
        """Redis' time."""
        seconds, micros = await self.link.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def _ids(self) -> list[str]:
        return [str(each) for each in await self.link.call("HKEYS", self.keys("triggers"))]

    async def _info(self, trigger_id: str, spec: str) -> TriggerInfo:
        flat, due, live = await asyncio.gather(
            self._hash(self.keys("trigger", trigger_id)),
            self.link.call("ZSCORE", self.keys("timers"), trigger_id),
            self.link.call("SCARD", self.keys("busy", trigger_id)),
        )
        state = pairs(flat)
        return TriggerInfo(
            trigger_id=trigger_id,
            spec=from_json(spec),
            paused=state.get("paused") == "1",
            next_due=None if due is None else from_ms(due),
            last_fired=from_ms(state["last_fired"]) if "last_fired" in state else None,
            fired=int(state.get("fired", 0)),
            missed=int(state.get("missed", 0)),
            live=int(live),
            created_at=from_ms(state.get("created", 0)),
        )


def _fire(raw: Mapping[str, object]) -> FireRecord:
    return FireRecord.model_validate(raw)
