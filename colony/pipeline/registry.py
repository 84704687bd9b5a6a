"""Stages by name: from configuration to stages, and from stages to what a colony says of itself.

A stage whose class is a registered pydantic model is *data*: its fields are in the colony's face, and any
process that knows the type runs it. Every other stage is *code*: the face has its name, and a runtime is
given it, ``ColonyRuntime(id, pipeline=[stage])``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from colony.errors import DefinitionError, PipelineIncomplete
from colony.pipeline.stage import Stage

T = TypeVar("T", bound=Callable[..., Stage])

CODE = "code"
_types: dict[str, Callable[..., Stage]] = {}


class StageEntry(BaseModel):
    """A stage as configuration, such as ``{"type": "rate_limit", "order": 200, "config": {"limit": 60}}``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    order: int | None = None
    config: dict[str, JsonValue] = Field(default_factory=dict)


_ENTRIES = TypeAdapter(list[StageEntry])


def stage(name: str) -> Callable[[T], T]:
    """Register a type of stages, so that configuration can name it: ``@stage("office_hours")``.

    It is called with the entry's ``config`` as keywords, and ``order`` where the entry has one. The same type
    may be registered again, as by a module that is imported under two names.
    """

    def register(made_by: T) -> T:
        known = getattr(_types.get(name, made_by), "__qualname__", None)
        if name == CODE or known != getattr(made_by, "__qualname__", None):
            raise DefinitionError(f"stage type {name!r} is taken; choose another name")
        _types[name] = made_by
        return made_by

    return register


def build(entry: StageEntry) -> Stage:
    """The stage that an entry describes. Raises `DefinitionError`."""
    if entry.type not in _types:
        raise DefinitionError(
            f"pipeline: there is no stage type {entry.type!r}; available are: {', '.join(sorted(_types))}. "
            "Register your own with @stage(name), in a module that is imported before"
        )
    order = {} if entry.order is None else {"order": entry.order}
    try:
        return _types[entry.type](**{**entry.config, **order})
    except (ValidationError, TypeError) as error:
        raise DefinitionError(f"pipeline: stage type {entry.type!r}: {error}") from error


def in_order(stages: Iterable[Stage]) -> list[Stage]:
    """Stages by their order, with names of their own. Raises `DefinitionError`."""
    found: dict[str, Stage] = {}
    for one in stages:
        if not isinstance(one, Stage):
            raise DefinitionError(
                f"pipeline: expected stages (name, order, async process), got {type(one).__name__}"
            )
        if one.name in found:
            raise DefinitionError(
                f"pipeline: two stages are named {one.name!r}; give one of them another name"
            )
        found[one.name] = one
    return sorted(found.values(), key=lambda one: one.order)


def dump(stages: Iterable[Stage]) -> str:
    """Stages as JSON, for the colony's face: data with their configuration, code with its name."""
    return _ENTRIES.dump_json([_entry(one) for one in stages]).decode()


def load(face: str, given: Mapping[str, Stage], colony_id: str) -> list[Stage]:
    """The stages of a face, where `given` are the stages that are code; those it does not name run, too.

    Raises `PipelineIncomplete` for a stage that this process cannot run.
    """
    named = [_from_face(entry, given, colony_id) for entry in _ENTRIES.validate_json(face)]
    names = {one.name for one in named}
    return in_order([*named, *(one for one in given.values() if one.name not in names)])


def code_of(stages: Iterable[Stage]) -> list[Stage]:
    """Those that are code: the others are in the colony's face, as its nodes have them now."""
    return [one for one in stages if _entry(one).type == CODE]


def _entry(one: Stage) -> StageEntry:
    for name, made_by in _types.items():
        if type(one) is made_by and isinstance(one, BaseModel):
            config = one.model_dump(mode="json", exclude={"order"})
            return StageEntry(type=name, order=one.order, config=config)
    return StageEntry(type=CODE, order=one.order, config={"name": one.name})


def _from_face(entry: StageEntry, given: Mapping[str, Stage], colony_id: str) -> Stage:
    name = str(entry.config.get("name", entry.type))
    if entry.type == CODE and name in given:
        return given[name]
    if entry.type == CODE:
        raise PipelineIncomplete(
            f"colony {colony_id!r} checks what comes in with a stage {name!r} that is code, and this process "
            f"does not have it. Give it to the runtime: ColonyRuntime({colony_id!r}, pipeline=[…]), to a "
            "gateway by the definition: colony gateway --definition module:attribute; or spawn with the task "
            "colony.spawn, which runs on its nodes"
        )
    if entry.type not in _types:
        raise PipelineIncomplete(
            f"colony {colony_id!r} checks what comes in with a stage {name!r} of type {entry.type!r}, which "
            f"this process does not know. Import the module that registers it with @stage({entry.type!r})"
        )
    return build(entry)
