"""`colony trigger`: what fires by itself, or upon a call; and what became of it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer
from rich.text import Text

from colony.cli.connection import open_runtime, settings_of
from colony.cli.durations import age, short_duration
from colony.cli.options import AsJson, BrokerUrl, ColonyName, RedisUrl
from colony.cli.output import emit_json, one_line, say, stdout, table
from colony.models import FireRecord, TriggerInfo
from colony.runtime import ColonyRuntime
from colony.sizes import read_bounded

app = typer.Typer(
    no_args_is_help=True,
    help="Triggers: timers, webhooks, events, and calls by name that spawn workers.",
)

TriggerId = Annotated[str, typer.Argument(metavar="ID", help="A trigger of the colony.")]

T = TypeVar("T")


def _ask(
    colony: str | None,
    redis_url: str | None,
    broker_url: str | None,
    verb: Callable[[ColonyRuntime], Awaitable[T]],
) -> T:
    async def run() -> T:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            return await verb(runtime)

    return asyncio.run(run())


@app.command("list")
def list_triggers(
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """List the triggers: when they fire next, how often they fired, and what they missed."""
    found = _ask(colony, redis_url, broker_url, lambda runtime: runtime.list_triggers())
    if as_json:
        emit_json(found)
    elif not found:
        say("There are no triggers.")
    else:
        columns = ("TRIGGER", "TYPE", "NEXT", "FIRED", "MISSED", "LIVE", "LAST", "TASK")
        stdout().print(table(*columns, rows=map(_row, found)))


def _row(info: TriggerInfo) -> tuple[str | Text, ...]:
    coming = "paused" if info.paused else "-" if info.next_due is None else f"{info.next_due:%F %T}"
    return (
        info.trigger_id,
        str(info.spec["trigger_type"]),
        coming,
        f"{info.fired:,}",
        f"{info.missed:,}",
        f"{info.live:,}",
        "never" if info.last_fired is None else age(info.last_fired),
        one_line(str(info.spec["task"]), 40),
    )


@app.command("show")
def show_trigger(
    trigger_id: TriggerId,
    colony: ColonyName = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="So many of its latest fires.")] = 20,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show a trigger's specification and its latest fires, those too that came to nothing."""

    async def read(runtime: ColonyRuntime) -> tuple[TriggerInfo, list[FireRecord]]:
        return await runtime.get_trigger(trigger_id), await runtime.get_fires(trigger_id, limit)

    info, fires = _ask(colony, redis_url, broker_url, read)
    if as_json:
        emit_json(
            {
                "trigger": info.model_dump(mode="json"),
                "fires": [f.model_dump(mode="json") for f in fires],
            }
        )
        return
    stdout().print_json(json.dumps(info.spec))
    columns = ("AT", "SOURCE", "DUE", "MISSED", "OUTCOME", "WORKER")
    stdout().print(table(*columns, rows=map(_fire, fires)))


def _fire(fire: FireRecord) -> tuple[str, ...]:
    due = "-" if fire.due is None else f"{fire.due:%F %T}"
    return (
        f"{fire.at:%F %T}",
        fire.source,
        due,
        str(fire.missed),
        fire.outcome,
        fire.worker_id or "-",
    )


@app.command("put")
def put_trigger(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A specification as JSON; - for standard input.")
    ],
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Add a trigger, or change it. The next time of a timer stays unless its times change."""
    try:
        given: Any = json.loads(read_bounded(file, sys.stdin))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{file}: {error}", param_hint="'FILE'") from error
    if not isinstance(given, dict):
        raise typer.BadParameter(f"{file}: expected a JSON object", param_hint="'FILE'")
    spec = _ask(colony, redis_url, broker_url, lambda runtime: runtime.put_trigger(given))
    if as_json:
        emit_json(spec)
    else:
        say(f"Trigger {spec.id} is kept.")


@app.command("fire")
def fire_trigger(
    trigger_id: TriggerId,
    input: Annotated[
        str,
        typer.Option(
            "--input", "-i", metavar="JSON", help="What its task and its worker are given."
        ),
    ] = "{}",
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="Idempotency key: fired once for it.")
    ] = None,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Fire a trigger now, whatever its type; prints the id of its worker."""
    try:
        given = json.loads(input)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="'--input'") from error
    if not isinstance(given, dict):
        raise typer.BadParameter("expected a JSON object", param_hint="'--input'")
    worker_id = _ask(
        colony,
        redis_url,
        broker_url,
        lambda runtime: runtime.trigger(trigger_id, given, idempotency_key=key),
    )
    if as_json:
        emit_json({"worker_id": worker_id})
    else:
        say(worker_id)


@app.command("remove")
def remove_trigger(
    trigger_id: TriggerId,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Forget a trigger with its history; its workers live on."""
    _ask(colony, redis_url, broker_url, lambda runtime: runtime.remove_trigger(trigger_id))
    say(f"Trigger {trigger_id} is removed.")


AllTimers = Annotated[bool, typer.Option("--all-timers", help="Every timer, those to come, too.")]
SomeId = Annotated[str | None, typer.Argument(metavar="[ID]", help="A trigger of the colony.")]


@app.command("pause")
def pause_trigger(
    trigger_id: SomeId = None,
    all_timers: AllTimers = False,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
) -> None:
    """A trigger fires no more, whatever comes, until it is resumed; or all timers do."""
    _check_which(trigger_id, all_timers)

    async def pause(runtime: ColonyRuntime) -> None:
        await (runtime.pause_timers() if trigger_id is None else runtime.pause_trigger(trigger_id))

    _ask(colony, redis_url, broker_url, pause)
    say(f"Paused: {trigger_id or 'all timers'}.")


@app.command("resume")
def resume_trigger(
    trigger_id: SomeId = None,
    all_timers: AllTimers = False,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
) -> None:
    """A trigger fires again, a timer from its next time on: what it missed is not made good."""
    _check_which(trigger_id, all_timers)

    async def resume(runtime: ColonyRuntime) -> None:
        await (
            runtime.resume_timers() if trigger_id is None else runtime.resume_trigger(trigger_id)
        )

    _ask(colony, redis_url, broker_url, resume)
    say(f"Resumed: {trigger_id or 'all timers'}.")


@app.command("next")
def next_fire(
    trigger_id: TriggerId,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Say in how long a timer is due."""
    left = _ask(colony, redis_url, broker_url, lambda runtime: runtime.next_fire_in(trigger_id))
    say("not by itself" if left is None else f"in {short_duration(left.total_seconds())}")


def _check_which(trigger_id: str | None, all_timers: bool) -> None:
    if (trigger_id is None) != all_timers:
        raise typer.BadParameter("name a trigger, or --all-timers", param_hint="'[ID]'")
