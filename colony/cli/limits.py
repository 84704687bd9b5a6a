"""`colony limit`: the caps of admission, and how to change them while the fleet runs."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from colony.cli.connection import open_runtime, settings_of
from colony.cli.options import AsJson, BrokerUrl, ColonyName, RedisUrl
from colony.cli.output import emit_json, stdout, table
from colony.models import Limit


def limit(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="max_concurrent_workers, max_concurrent_per_key or agent:<name>. Default: show all.",
        ),
    ] = None,
    most: Annotated[
        int | None,
        typer.Argument(metavar="[N]", min=1, help="At most so many at once; others line up."),
    ] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Back to what the definition says.")
    ] = False,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show how many workers may run at once, or change it while the fleet runs."""
    if name is not None and (most is None) != reset:
        raise typer.BadParameter("give a number, or --reset", param_hint="'[N]'")
    if name is None and reset:
        raise typer.BadParameter("--reset which limit?", param_hint="'[NAME]'")

    async def run() -> list[Limit]:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            if name is not None:
                await runtime.set_limit(name, most)
            return await runtime.get_limits()

    limits = asyncio.run(run())
    if as_json:
        emit_json(limits)
        return
    rows = ((each.name, _words(each.defined), _words(each.most)) for each in limits)
    stdout().print(table("LIMIT", "DEFINITION", "NOW", rows=rows))


def _words(most: int | None) -> str:
    return "none" if most is None else f"{most:,}"
