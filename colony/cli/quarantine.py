"""`colony quarantine`: the workers that were lost with their nodes, and what becomes of them."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.text import Text

from colony.cli import views
from colony.cli.chosen import EVERYTHING, do_to_each
from colony.cli.connection import open_runtime, settings_of
from colony.cli.durations import age
from colony.cli.options import AsJson, BrokerUrl, ColonyName, RedisUrl
from colony.cli.output import emit_json, one_line, say, stdout, table
from colony.models import WorkerRecord
from colony.runtime import ColonyRuntime

app = typer.Typer(
    no_args_is_help=True,
    help="Workers that were lost: their nodes died under them more often than max_resurrections. "
    "They are kept, whatever the retention, until you retry or drop them.",
)

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID…", help="Workers in quarantine.")]
All = Annotated[bool, typer.Option("--all", help="All that are in quarantine now.")]

EXPECTED = "name workers, or --all"


@app.command("list")
def list_quarantine(
    colony: ColonyName = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """List the workers in quarantine, the newest first, and where they were lost."""

    async def run() -> list[WorkerRecord]:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            return await runtime.list_quarantine(limit)

    records = asyncio.run(run())
    if as_json:
        emit_json(records)
    elif not records:
        say("Nothing is in quarantine.")
    else:
        columns = ("WORKER", "SINCE", "AGENT", "TASK", "REASON")
        stdout().print(table(*columns, rows=map(_row, records)))


def _row(record: WorkerRecord) -> tuple[str | Text, ...]:
    reason = record.report.summary if record.report else ""
    task = one_line(record.task, 40)
    return record.worker_id, age(record.since), record.agent, task, one_line(reason, 400)


@app.command("show")
def show_quarantined(
    worker_id: Annotated[str, typer.Argument(metavar="ID", help="A worker in quarantine.")],
    colony: ColonyName = None,
    full: Annotated[bool, typer.Option("--full", help="Do not cut long texts.")] = False,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show one of them: where and when its nodes died, its conversation, its report."""
    views.show(
        worker_id,
        colony=colony,
        full=full,
        redis_url=redis_url,
        broker_url=broker_url,
        as_json=as_json,
    )


@app.command("retry")
def retry_quarantined(
    ids: Ids = None,
    all_: All = False,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Spawn new workers from their tasks, and take the old ones out of quarantine. Prints the new ids."""

    where = (colony, redis_url, broker_url)
    every = _all if all_ else None
    retried = do_to_each(
        ColonyRuntime.retry_quarantined, ids, every, expected=EXPECTED, where=where
    )
    if as_json:
        emit_json([{"retried": old, "worker": new} for old, new in retried.items()])
        return
    for new in retried.values():
        say(new)


@app.command("drop")
def drop_quarantined(
    ids: Ids = None,
    all_: All = False,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Take workers out of quarantine: their records are then forgotten like those of others."""

    where = (colony, redis_url, broker_url)
    every = _all if all_ else None
    dropped = do_to_each(ColonyRuntime.drop_quarantined, ids, every, expected=EXPECTED, where=where)
    if as_json:
        emit_json({"dropped": list(dropped)})
    else:
        say(f"Dropped: {len(dropped)}.")


async def _all(runtime: ColonyRuntime) -> list[str]:
    return [record.worker_id for record in await runtime.list_quarantine(EVERYTHING)]
