"""`colony subscription`: where the events of a colony are sent as webhooks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer
from pydantic import JsonValue, ValidationError
from rich.text import Text

from colony.cli.connection import open_runtime, settings_of
from colony.cli.options import AsJson, BrokerUrl, ColonyName, RedisUrl
from colony.cli.output import emit_json, one_line, say, stdout, table
from colony.errors import InvalidSubscription
from colony.models import Subscription, SubscriptionInfo
from colony.runtime import ColonyRuntime

app = typer.Typer(
    no_args_is_help=True,
    help="Where events are sent as signed webhooks (Standard Webhooks), each at least once.",
)

Id = Annotated[str, typer.Argument(metavar="ID", help="A subscription.")]


@app.command("add")
def add_subscription(
    id_: Annotated[str, typer.Argument(metavar="ID", help="A name of yours.")],
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to: https://…")],
    secret: Annotated[
        list[str],
        typer.Option(
            metavar="REF",
            help="Where the nodes find the secret (whsec_…): env:NAME or file:/path. Several sign "
            "side by side.",
        ),
    ],
    type_: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="TYPE", help="Which events, such as subagent_report. All."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH=VALUE", help="What stands in them, such as data.status=failed."),
    ] = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Begin with the oldest event that is kept.")
    ] = False,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Send events to a URL from now on. One that exists is changed, and goes on where it was."""
    wanted = _subscription(id_, url, secret, type_ or [], where or [])
    _do(
        lambda runtime: runtime.put_subscription(wanted, from_start=from_start),
        (colony, redis_url, broker_url),
    )
    say(f"Subscribed: {id_}.")


def _subscription(
    id_: str, url: str, secrets: list[str], types: list[str], where: list[str]
) -> Subscription:
    conditions: dict[str, JsonValue] = {}
    for condition in where:
        path, separator, value = condition.partition("=")
        if not separator:
            raise InvalidSubscription(
                f"--where {condition!r}: expected PATH=VALUE, such as data.status=failed"
            )
        conditions[path] = _value(value)
    try:
        return Subscription(
            id=id_, url=url, secret=tuple(secrets), types=tuple(types), where=conditions
        )
    except ValidationError as error:
        complaint = error.errors()[0]
        field = ".".join(map(str, complaint["loc"]))
        raise InvalidSubscription(
            f"{field}: {complaint['msg']}".replace("Value error, ", "")
        ) from None


def _value(text: str) -> JsonValue:
    """JSON, or else the text itself."""
    try:
        value: JsonValue = json.loads(text)
    except ValueError:
        return text
    return value


@app.command("list")
def list_subscriptions(
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """List the subscriptions: where to, how far they are, what is owed to them, and why they are paused."""

    async def run() -> list[SubscriptionInfo]:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            return await runtime.list_subscriptions()

    found = asyncio.run(run())
    if as_json:
        emit_json(found)
    elif not found:
        say("There are no subscriptions.")
    else:
        columns = ("ID", "STATE", "AT", "OWED", "DELIVERED", "TYPES", "URL")
        stdout().print(table(*columns, rows=map(_row, found)))


def _row(info: SubscriptionInfo) -> tuple[str | Text, ...]:
    subscription = info.subscription
    return (
        subscription.id,
        "on" if info.enabled else one_line(f"off: {info.reason}", 40),
        info.cursor,
        f"{info.owed:,}",
        f"{info.delivered:,}",
        one_line(", ".join(subscription.types) or "all", 40),
        subscription.url,
    )


@app.command("remove")
def remove_subscription(
    id_: Id,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Forget a subscription, with all that is owed to it."""
    _do(lambda runtime: runtime.remove_subscription(id_), (colony, redis_url, broker_url))
    say(f"Removed: {id_}.")


@app.command("pause")
def pause_subscription(
    id_: Id,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Send a subscription nothing; what happens meanwhile is sent later, as far as the log still has it."""
    _do(lambda runtime: runtime.pause_subscription(id_), (colony, redis_url, broker_url))
    say(f"Paused: {id_}.")


@app.command("resume")
def resume_subscription(
    id_: Id,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Let a subscription go on where it was."""
    _do(lambda runtime: runtime.resume_subscription(id_), (colony, redis_url, broker_url))
    say(f"Resumed: {id_}.")


def _do(
    verb: Callable[[ColonyRuntime], Awaitable[None]],
    where: tuple[str | None, str | None, str | None],
) -> None:
    colony, redis_url, broker_url = where

    async def run() -> None:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            await verb(runtime)

    asyncio.run(run())
