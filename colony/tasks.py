"""What a producer may ask for, checked before anything is written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue, ValidationError
from pydantic_core import from_json

from colony.definition import ColonyConfig
from colony.errors import InvalidTask
from colony.models import TaskSpec
from colony.sizes import utf8

MAX_WORKERS = 10_000
"""Most workers of one call."""
SPARE_DEPTH = 50
"""How much deeper than in a record data may stand: readers go 200 levels down, and no further."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes that a colony's definition allows, read from the store."""

    max_task_bytes: int
    max_data_bytes: int
    agents: frozenset[str]


def limits_in(face: Mapping[str, str]) -> tuple[Limits, ColonyConfig]:
    """What a colony's face in the store allows."""
    config = ColonyConfig.model_validate_json(face["config"])
    agents = frozenset(agent["name"] for agent in json.loads(face["agents"]))
    return Limits(config.max_task_bytes, config.max_data_bytes, agents), config


def check_tasks(
    tasks: Sequence[str | Mapping[str, Any] | TaskSpec], limits: Limits
) -> list[TaskSpec]:
    """All tasks as `TaskSpec`s, or `InvalidTask` that names the first one that is wrong."""
    if isinstance(tasks, (str, bytes, Mapping)):
        raise InvalidTask(
            f"tasks: expected a list of tasks, got a single {type(tasks).__name__}; put it in a list"
        )
    if not tasks:
        raise InvalidTask("tasks is empty: there is nothing to spawn")
    if len(tasks) > MAX_WORKERS:
        raise InvalidTask(
            f"{len(tasks)} tasks in one call, at most {MAX_WORKERS} are accepted: spawn in several calls"
        )
    return [_check(task, f"tasks[{index}]", limits) for index, task in enumerate(tasks)]


def check_task(
    task: str, data: Mapping[str, JsonValue] | None, agent: str | None, count: int, limits: Limits
) -> list[TaskSpec]:
    """`count` times the same task."""
    if isinstance(count, bool) or not 1 <= count <= MAX_WORKERS:
        raise InvalidTask(f"count: expected 1 to {MAX_WORKERS}, got {count!r}")
    item: dict[str, Any] = {"task": task, "agent": agent, "data": {} if data is None else data}
    return [_check(item, "", limits)] * count


def _check(task: str | Mapping[str, Any] | TaskSpec, where: str, limits: Limits) -> TaskSpec:
    spec = _spec(task, where)
    dot = f"{where}." if where else ""
    if not spec.task.strip():
        raise InvalidTask(f"{dot}task is blank: say what the worker shall do")
    size = len(utf8(f"{dot}task", spec.task))
    if size > limits.max_task_bytes:
        raise InvalidTask(
            f"{dot}task has {size} bytes, at most {limits.max_task_bytes} are accepted (max_task_bytes): "
            "put the bulk where a tool can read it"
        )
    try:
        data = json.dumps(spec.data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(data.encode())
    except (ValueError, RecursionError) as error:
        raise InvalidTask(f"{dot}data is not JSON: {error}") from error
    if size > limits.max_data_bytes:
        raise InvalidTask(
            f"{dot}data has {size} bytes as JSON, at most {limits.max_data_bytes} are accepted "
            "(max_data_bytes): pass a reference that a tool can read"
        )
    if not _can_be_read(data):
        raise InvalidTask(
            f"{dot}data is nested too deeply, or has a number too long, to be read again"
        )
    if spec.agent is not None:
        utf8(f"{dot}agent", spec.agent)
    if spec.agent is not None and limits.agents and spec.agent not in limits.agents:
        raise InvalidTask(
            f"{dot}agent {spec.agent!r} is unknown; this colony has: {', '.join(sorted(limits.agents))}"
        )
    return spec


def _can_be_read(data: str) -> bool:
    """Whether those who get the record can read it, also where it stands within something else."""
    try:
        from_json("[" * SPARE_DEPTH + data + "]" * SPARE_DEPTH)
    except ValueError:
        return False
    return True


def _spec(task: str | Mapping[str, Any] | TaskSpec, where: str) -> TaskSpec:
    if isinstance(task, TaskSpec):
        return task
    raw = {"task": task} if isinstance(task, str) else task
    if not isinstance(raw, Mapping):
        raise InvalidTask(
            f"{where or 'task'}: expected text, an object or a TaskSpec, got {type(task).__name__}"
        )
    unknown = set(raw) - set(TaskSpec.model_fields)
    if unknown:
        known = ", ".join(TaskSpec.model_fields)
        raise InvalidTask(
            f"{where or 'task'}: unknown field {min(map(str, unknown))!r}; known are {known}"
        )
    try:
        return TaskSpec.model_validate(
            {**raw, "data": {} if raw.get("data") is None else raw["data"]}
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        name = f"{where}.{field}" if where else field
        raise InvalidTask(
            f"{name}: {first['msg'].lower()}, got {type(first['input']).__name__}"
        ) from error
