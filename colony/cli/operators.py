"""The operator's commands: hear what happens, and change what runs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.text import Text

from colony.cli.connection import open_runtime, settings_of
from colony.cli.durations import short_duration
from colony.cli.harvest import is_batch
from colony.cli.options import AsJson, BrokerUrl, ColonyName, RedisUrl
from colony.cli.output import emit_json, facts, one_line, plain, say, stdout, table
from colony.errors import UnknownWorker
from colony.events import position_of
from colony.models import Event, EventType, FleetStats, NodeInfo, WorkerState
from colony.operations import StoppedTree
from colony.runtime import ColonyRuntime

LAG_WARNING_MS = 1000


def _event_id(text: str) -> str:
    try:
        position_of(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return text


def events(
    colony: ColonyName = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what happens from now.")
    ] = False,
    after: Annotated[
        str | None,
        typer.Option(
            metavar="EVENT-ID",
            parser=_event_id,
            help="Begin after this event; 0 is the beginning. Default: 0, with --follow: now.",
        ),
    ] = None,
    type_: Annotated[
        list[EventType] | None,
        typer.Option("--type", "-t", help="Only this type; can be repeated."),
    ] = None,
    worker: Annotated[
        str | None, typer.Option(metavar="ID", help="Only events of this worker.")
    ] = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Print what happened, or with --follow what happens. JSON is one event per line.

    Text as it streams and progress (llm_text_delta, progress) are heard live only.
    """
    begin = after if after is not None or follow else "0"

    async def run() -> None:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            chosen = runtime.events(types=type_, worker_id=worker, after=begin, follow=follow)
            async for event in chosen:
                emit_json(event, indent=None) if as_json else say(event_line(event))

    asyncio.run(run())


def event_line(event: Event, *, width: int = 100) -> Text:
    """One event on one line: time, worker, what happened."""
    line = plain(f"{event.at.astimezone():%H:%M:%S.%f}"[:-3], "dim")
    style = "yellow" if event.type == EventType.GAP else "cyan"
    line.append_text(plain(f"  {event.type:<20}", style))
    if event.worker_id:
        line.append_text(plain(f"  {event.worker_id}"))
    line.append_text(plain("  "))
    line.append_text(one_line(_details(event.data), width))
    return line


def _details(data: dict[str, Any]) -> str:
    return "  ".join(
        f"{name}={value}" for name, value in data.items() if value not in (None, "", {}, [])
    )


def stop(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID…", help="The workers and the batches to stop."),
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Stop every worker that has not ended.")
    ] = False,
    tree: Annotated[
        bool,
        typer.Option(
            "--tree",
            help="Say that the descendants are meant, too. They always are: nobody is left who "
            "would want their reports.",
        ),
    ] = False,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Kept in the reports.")] = None,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Stop workers and batches, with all their descendants: each ends with a report, status stopped.

    One that has ended keeps its report; who is left of its descendants is stopped. An id that is unknown
    stops nothing.
    """
    if bool(ids) == all_:
        raise typer.BadParameter("name what to stop, or --all workers", param_hint="'ID…'")
    if tree and all_:
        raise typer.BadParameter("--all leaves no descendants to name", param_hint="'--tree'")

    async def run() -> None:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            if all_:
                stopped = await runtime.stop_all_workers(reason)
                emit_json({"stopped": stopped}) if as_json else say(f"Stopped: {stopped} workers.")
                return
            named = list(dict.fromkeys(ids or ()))
            await _must_be_known(runtime, named)
            batches = {i: await runtime.stop_batch(i, reason) for i in named if is_batch(i)}
            workers = {i: await runtime.stop_tree(i, reason) for i in named if not is_batch(i)}
        if as_json:
            emit_json(
                {
                    "workers": [
                        {"worker_id": i, "stopped": told.itself, "descendants": told.descendants}
                        for i, told in workers.items()
                    ],
                    "batches": [{"batch_id": i, "stopped": n} for i, n in batches.items()],
                }
            )
            return
        for some_id in named:
            say(f"{some_id} {_told(batches, workers, some_id)}")

    asyncio.run(run())


async def _must_be_known(runtime: ColonyRuntime, ids: Sequence[str]) -> None:
    """Raises `UnknownWorker` that names all that are not there: then nothing has been stopped yet."""
    found = [await (runtime.get_batch if is_batch(i) else runtime.get_worker)(i) for i in ids]
    unknown = [some_id for some_id, record in zip(ids, found, strict=True) if record is None]
    if unknown:
        raise UnknownWorker(
            f"colony {runtime.colony_id!r} has no worker or batch {', '.join(map(repr, unknown))}: the id is "
            "wrong, or it was retired. Nothing was stopped: name only such as are there"
        )


def _told(batches: Mapping[str, int], workers: Mapping[str, StoppedTree], some_id: str) -> str:
    if some_id in batches:
        n = batches[some_id]
        return (
            f"is stopped: {n:,} of its workers and their descendants" if n else "had ended already"
        )
    told = workers[some_id]
    below = f"{told.descendants:,} of its descendants"
    if told.itself:
        return f"is stopped, with {below}" if told.descendants else "is stopped"
    ended = "had ended already: its report is as it was"
    return f"{ended}. Stopped: {below}" if told.descendants else ended


def retry(
    some_id: Annotated[str, typer.Argument(metavar="ID", help="The id of a worker or of a batch.")],
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Spawn a new worker from the task of one that has ended, and print its id.

    Of a batch that is joined: a new batch of the tasks that did not succeed.
    """

    async def run() -> dict[str, Any]:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            if not is_batch(some_id):
                return {"worker": await runtime.retry_worker(some_id)}
            batch = await runtime.retry_batch(some_id)
            return {"batch": batch.id, "workers": batch}

    new = asyncio.run(run())
    emit_json({"retried": some_id, **new}) if as_json else say(new.get("batch") or new["worker"])


def stats(
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show workers by state, nodes and totals."""

    async def run() -> tuple[FleetStats, list[NodeInfo]]:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            return await runtime.get_stats(), await runtime.list_nodes()

    figures, nodes = asyncio.run(run())
    if as_json:
        emit_json({**figures.model_dump(mode="json"), "node_list": nodes})
        return
    _print_stats(figures)
    if nodes:
        say("")
        stdout().print(
            table("NODE", "POOL", "RUNNING", "LEASE", "LAG", "VERSION", rows=map(_node_row, nodes))
        )


def _print_stats(figures: FleetStats) -> None:
    oldest = figures.oldest_pending_seconds
    states: dict[str, str | Text | None] = {
        state.lower(): f"{figures.states.get(state, 0):,}" for state in WorkerState
    }
    stdout().print(
        facts(
            {
                "colony": figures.colony_id,
                **states,
                "oldest pending": None if oldest is None else short_duration(oldest),
                "quarantined": _quarantined(figures.quarantined),
                "nodes": f"{figures.nodes} with {figures.slots:,} slots",
                "intake": plain("paused", "yellow") if figures.intake_paused else "open",
                "in all": ", ".join(f"{n:,} {name}" for name, n in figures.totals.items()) or None,
                "events": f"{figures.events:,}",
            }
        )
    )


def _quarantined(count: int) -> Text | None:
    return plain(f"{count:,}: see colony quarantine list", "red") if count else None


def _node_row(node: NodeInfo) -> tuple[str | Text, ...]:
    lease: str | Text = f"{node.lease_seconds:.1f} s"
    if node.lease_seconds <= 0:
        lease = plain("lost", "red")
    elif node.draining:
        lease = plain("draining", "yellow")
    slots = f"{node.running} of {node.concurrency}"
    lag = plain(f"{node.lag_ms:,} ms", "yellow" if node.lag_ms > LAG_WARNING_MS else "")
    return node.node, node.pool, slots, lease, lag, node.version


def pause(
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Refuse new tasks until `colony resume`. What was accepted goes on."""
    _set_intake(colony, redis_url, broker_url, paused=True, as_json=as_json)


def resume(
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Accept new tasks again."""
    _set_intake(colony, redis_url, broker_url, paused=False, as_json=as_json)


def _set_intake(
    colony: str | None,
    redis_url: str | None,
    broker_url: str | None,
    *,
    paused: bool,
    as_json: bool,
) -> None:
    async def run() -> str:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            await (runtime.pause_intake() if paused else runtime.resume_intake())
            return runtime.colony_id

    name = asyncio.run(run())
    if as_json:
        emit_json({"colony": name, "intake_paused": paused})
    elif paused:
        say(f"The intake of {name} is paused: new tasks are refused, what was accepted goes on.")
    else:
        say(f"The intake of {name} is open.")
