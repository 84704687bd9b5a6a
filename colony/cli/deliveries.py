"""`colony deliveries`: the webhooks that are owed, those that were given up, and what becomes of them."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.text import Text

from colony.cli.chosen import EVERYTHING, do_to_each
from colony.cli.connection import open_runtime, settings_of
from colony.cli.durations import age
from colony.cli.options import AsJson, BrokerUrl, ColonyName, RedisUrl
from colony.cli.output import emit_json, facts, one_line, say, stdout, table
from colony.errors import UnknownDelivery
from colony.models import Delivery
from colony.runtime import ColonyRuntime

app = typer.Typer(
    no_args_is_help=True,
    help="Webhooks that are owed (on_complete by URL, subscriptions), and those that were given up.",
)

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID…", help="Deliveries.")]
AllDead = Annotated[bool, typer.Option("--all-dead", help="All that were given up.")]

EXPECTED = "name deliveries, or --all-dead"


@app.command("list")
def list_deliveries(
    dead: Annotated[
        bool, typer.Option("--dead", help="Those that were given up, not those that are owed.")
    ] = False,
    colony: ColonyName = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """List webhooks, the newest first: where they go, how often that was tried, and what went wrong."""

    async def run() -> list[Delivery]:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            return await runtime.list_deliveries(dead=dead, limit=limit)

    found = asyncio.run(run())
    if as_json:
        emit_json([_without_data(delivery) for delivery in found])
    elif not found:
        say("No webhook was given up." if dead else "No webhook is owed.")
    else:
        columns = ("DELIVERY", "SINCE", "TYPE", "TO", "TRIED", "ERROR")
        stdout().print(table(*columns, rows=map(_row, found)))


def _row(delivery: Delivery) -> tuple[str | Text, ...]:
    where = urlsplit(delivery.url).netloc
    error = one_line(delivery.error or "", 200)
    since = age(delivery.created_at)
    return delivery.id, since, delivery.type, where, str(delivery.attempts), error


def _without_data(delivery: Delivery) -> dict[str, object]:
    return delivery.model_dump(mode="json", exclude={"data"})


@app.command("show")
def show_delivery(
    delivery_id: Annotated[str, typer.Argument(metavar="ID", help="A delivery.")],
    colony: ColonyName = None,
    payload: Annotated[
        bool, typer.Option("--payload", help="Also what is sent: a report, an event.")
    ] = False,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show one webhook: its URL, its attempts, and when it is sent next."""

    async def run() -> Delivery:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            found = await runtime.get_delivery(delivery_id)
            if found is None:
                raise UnknownDelivery(
                    f"there is no delivery {delivery_id!r}: it has arrived, was dropped, or never was"
                )
            return found

    found = asyncio.run(run())
    if as_json:
        data = {"data": json.loads(found.data)} if payload else {}
        emit_json({**_without_data(found), **data})
        return
    due = found.next_attempt_at
    stdout().print(
        facts(
            {
                "delivery": found.id,
                "type": found.type,
                "to": found.url,
                "subscription": found.subscription_id,
                "since": age(found.created_at),
                "tried": str(found.attempts),
                "next": None if due is None else f"{due:%Y-%m-%d %H:%M:%S} UTC",
                "given up": "yes" if found.dead else None,
                "error": found.error,
                "data": found.data if payload else None,
            }
        )
    )


@app.command("retry")
def retry_deliveries(
    ids: Ids = None,
    all_dead: AllDead = False,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Send webhooks now, with all their attempts before them again."""

    where = (colony, redis_url, broker_url)
    every = _dead if all_dead else None
    retried = do_to_each(ColonyRuntime.retry_delivery, ids, every, expected=EXPECTED, where=where)
    if as_json:
        emit_json({"retried": list(retried)})
    else:
        say(f"To be sent now: {len(retried)}.")


@app.command("drop")
def drop_deliveries(
    ids: Ids = None,
    all_dead: AllDead = False,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Forget webhooks: they are not sent any more."""

    where = (colony, redis_url, broker_url)
    every = _dead if all_dead else None
    dropped = do_to_each(ColonyRuntime.drop_delivery, ids, every, expected=EXPECTED, where=where)
    if as_json:
        emit_json({"dropped": list(dropped)})
    else:
        say(f"Dropped: {len(dropped)}.")


async def _dead(runtime: ColonyRuntime) -> list[str]:
    return [found.id for found in await runtime.list_deliveries(dead=True, limit=EVERYTHING)]
