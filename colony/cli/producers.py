"""The producer's commands: spawn and wait."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

from colony.cli.connection import open_runtime, settings_of
from colony.cli.harvest import TEN_MINUTES, Timeout, collect, finish
from colony.cli.options import (
    AsJson,
    BrokerUrl,
    ColonyName,
    ConcurrencyKey,
    CorrelationId,
    Deadline,
    IdempotencyKey,
    NotBefore,
    Priority,
    Queue,
    RedisUrl,
    SoftDeadline,
)
from colony.cli.output import emit_json, stdout
from colony.errors import NoNodes
from colony.sizes import read_bounded


def spawn(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="What is to be done; - reads it from stdin.")
    ],
    colony: ColonyName = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="JSON|@FILE", help="Input data, a JSON object; @FILE reads a file, @- stdin."
        ),
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which of the colony's agents. Default: its first."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many workers are given this task.")] = 1,
    deadline: Deadline = None,
    soft_deadline: SoftDeadline = None,
    not_before: NotBefore = None,
    priority: Priority = 0,
    concurrency_key: ConcurrencyKey = None,
    idempotency_key: IdempotencyKey = None,
    correlation_id: CorrelationId = None,
    queue: Queue = False,
    wait_: Annotated[
        bool, typer.Option("--wait", "-w", help="Wait for the reports and print them.")
    ] = False,
    timeout: Timeout = TEN_MINUTES,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Give a task to the fleet and print the ids of its workers.

    With --wait the exit code is 0 only if every report is success or partial.
    """
    options: dict[str, Any] = {
        "count": count,
        "data": _read_data(data, task_from_stdin=task == "-"),
        "agent": agent,
        "deadline": deadline and deadline.value,
        "not_before": not_before and not_before.value,
        "priority": priority,
        "soft_deadline": soft_deadline,
        "concurrency_key": concurrency_key,
        "idempotency_key": idempotency_key,
        "correlation_id": correlation_id,
        "require_node": not queue,
    }
    text = sys.stdin.read() if task == "-" else task

    async def run() -> None:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            with hinting_at_queue():
                ids = await runtime.spawn(text, **options)
            if wait_:
                finish(await collect(runtime, ids, timeout), timeout, as_json=as_json)
            elif as_json:
                emit_json({"colony": runtime.colony_id, "workers": ids})
            else:
                stdout().print("\n".join(ids), soft_wrap=True)

    asyncio.run(run())


def wait(
    worker_ids: Annotated[
        list[str], typer.Argument(metavar="ID…", help="Ids that spawn or batch printed.")
    ],
    colony: ColonyName = None,
    timeout: Timeout = TEN_MINUTES,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Wait until workers have ended, or batches are joined, and print their reports.

    The exit code is 0 only if every report is success or partial, and every batch has what its policy
    asks for. Nobody is stopped by a time-out.
    """

    async def run() -> None:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            finish(await collect(runtime, worker_ids, timeout), timeout, as_json=as_json)

    asyncio.run(run())


@contextmanager
def hinting_at_queue() -> Iterator[None]:
    """A refusal for want of nodes says which option accepts the tasks anyway."""
    try:
        yield
    except NoNodes as error:
        raise NoNodes(f"{error}. On the command line: --queue accepts it anyway") from error


def _read_data(given: str | None, *, task_from_stdin: bool) -> dict[str, Any] | None:
    if given is None:
        return None
    if given == "@-" and task_from_stdin:
        _wrong_data("TASK and --data cannot both be read from stdin; put one of them in a file")
    try:
        return _parse_object(read_text(given[1:]) if given.startswith("@") else given)
    except (OSError, UnicodeDecodeError) as error:
        _wrong_data(f"{given[1:]} cannot be read as UTF-8 text: {error}")
    except ValueError as error:
        _wrong_data(f"expected a JSON object, or @FILE: {error}")


def read_text(path: str) -> str:
    """A file, or stdin for ``-``."""
    return read_bounded(path, sys.stdin)


def parse_json(text: str) -> Any:
    """What the text says as JSON. Raises `ValueError`, also for NaN and the infinities."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def _parse_object(text: str) -> dict[str, Any]:
    parsed = parse_json(text)
    if not isinstance(parsed, dict):
        raise ValueError(
            f"got {type(parsed).__name__} instead of an object such as '{{\"key\": 1}}'"
        )
    return parsed


def _wrong_data(message: str) -> NoReturn:
    raise typer.BadParameter(message, param_hint="'--data'")
