"""Putting triggers into the store: those of a definition, and those of an operator."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from colony.errors import InvalidTrigger, UnknownColony
from colony.store import Store
from colony.store.triggers import Times
from colony.triggers.spec import EventConfig, TimerConfig, TriggerSpec


async def put(store: Store, spec: TriggerSpec, *, declared: bool = False) -> None:
    """Keep a trigger, new or changed. Raises `InvalidTrigger`, `UnknownColony`.

    `declared`: it is the definition's; the same declaration is put once, so what an operator changes stands
    until the definition says something else.
    """
    _check(store, spec, await _put(store, spec, declared=declared))


async def _put(
    store: Store, spec: TriggerSpec, *, declared: bool, gives_way: TriggerSpec | None = None
) -> Sequence[str]:
    if spec.timer is not None:
        spec.timer.check()
    return await store.put_trigger(
        spec.id,
        spec.model_dump_json(),
        kind=spec.trigger_type.value,
        most=spec.max_concurrent,
        policy=spec.concurrency_policy,
        route=_path(spec),
        times=None
        if spec.timer is None
        else _first_times(spec.id, spec.timer, await store.now_ms()),
        declared=_digest(spec.model_dump_json()) if declared else "",
        watched=("", "") if spec.event is None else await _watched_from(store, spec.event),
        gives_way=("", "")
        if gives_way is None
        else (gives_way.id, _digest(gives_way.model_dump_json())),
    )


def _path(spec: TriggerSpec) -> str:
    return spec.webhook.path if spec.webhook else ""


def _check(store: Store, spec: TriggerSpec, reply: Sequence[str]) -> None:
    """Raises for what the store has refused."""
    match reply:
        case ["route", owner]:
            raise InvalidTrigger(
                f"trigger_config.path: {_path(spec)!r} is taken by trigger {owner!r}: give {spec.id!r} "
                "another, or remove that one"
            )
        case ["too_many", have]:
            raise InvalidTrigger(f"the colony has {have} triggers already; remove some first")
        case ["unknown_colony"]:
            raise UnknownColony(
                f"no node has ever served a colony named {store.colony_id!r} in this Redis"
            )


async def declare(store: Store, specs: Sequence[TriggerSpec]) -> None:
    """Make the definition's triggers known, and forget those that it does not declare any more. Those that
    change their paths among each other give way."""
    wanted = {spec.id: spec for spec in specs}
    for trigger_id in await store.declared_triggers():
        if trigger_id not in wanted:  # first: another may take its path
            await store.remove_trigger(trigger_id, undeclared=True)
    for spec in specs:
        reply = await _put(store, spec, declared=True)
        owner = wanted.get(reply[1]) if reply[0] == "route" else None
        if owner is not None and _path(owner) != _path(spec):
            reply = await _put(store, spec, declared=True, gives_way=owner)
        _check(store, spec, reply)


def watched(store: Store, config: EventConfig) -> Store:
    """The colony whose events are watched."""
    return Store(store.link, config.colony or store.colony_id)


async def _watched_from(store: Store, config: EventConfig) -> tuple[str, str]:
    source = watched(store, config)
    return source.colony_id, await source.latest_event()


def next_times(trigger_id: str, timer: TimerConfig, now: int) -> tuple[int, int]:
    """When a timer that goes on now is due next, and the slot of that."""
    schedule = timer.schedule()
    slot = schedule.first(now)
    return schedule.due(trigger_id, slot), slot


def _first_times(trigger_id: str, timer: TimerConfig, now: int) -> Times:
    times = timer.model_dump_json(include={"cron", "interval", "timezone", "jitter"})
    at_once = (timer.schedule().due(trigger_id, now), now) if timer.run_immediately else None
    return Times(_digest(times), *next_times(trigger_id, timer, now), at_once)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
