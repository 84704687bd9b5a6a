"""The operator's commands: look at a colony, and change what runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from colony.cli.connection import open_runtime, settings_of
from colony.cli.durations import age, short_duration
from colony.cli.options import AsJson, BrokerUrl, ColonyName, RedisUrl
from colony.cli.output import coloured, emit_json, facts, one_line, plain, say, stdout, table
from colony.cli.producers import print_report
from colony.cli.transcript import transcript
from colony.errors import UnknownWorker
from colony.events import position_of
from colony.models import Event, EventType, FleetStats, NodeInfo, WorkerRecord, WorkerState
from colony.runtime import ColonyRuntime

WorkerId = Annotated[str, typer.Argument(metavar="ID", help="The worker's id.")]


def list_workers(
    colony: ColonyName = None,
    status: Annotated[
        WorkerState | None, typer.Option(case_sensitive=False, help="Only workers in this state.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """List workers, the newest first."""

    async def run() -> list[WorkerRecord]:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            return await runtime.list_workers(status=status, limit=limit)

    records = asyncio.run(run())
    if as_json:
        emit_json(records)
    elif not records:
        say("No workers." if status is None else f"No workers are {status}.")
    else:
        columns = ("WORKER", "STATE", "SINCE", "AGENT", "NODE", "TASK")
        stdout().print(table(*columns, rows=map(_row, records)))


def _row(record: WorkerRecord) -> tuple[str | Text, ...]:
    state = coloured(record.state)
    if record.waits_for:
        state.append_text(plain(f" ({record.waits_for})"))
    elif record.report:
        state.append_text(plain(f" ({record.report.status})"))
    where = record.node or (record.attempts[-1].node if record.attempts else "-")
    since = f"{age(record.since)} ago"
    return record.worker_id, state, since, record.agent, where, one_line(record.task, 80)


def show(
    worker_id: WorkerId,
    colony: ColonyName = None,
    full: Annotated[
        bool, typer.Option("--full", help="Do not cut the conversation's texts.")
    ] = False,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show one worker: its state, why it waits, its attempts, its conversation and its report."""

    async def run() -> None:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            record = await _existing(runtime, worker_id)
            parts = await runtime.get_conversation(worker_id)
            waiting = why_it_waits(record, await runtime.list_nodes())
        if as_json:
            emit_json({"worker": record, "waiting": waiting, "conversation": parts})
            return
        _print_record(record, waiting)
        for block in transcript(parts, full=full):
            say(block)
        if record.report:
            say("")
            print_report(record.report)

    asyncio.run(run())


async def _existing(runtime: ColonyRuntime, worker_id: str) -> WorkerRecord:
    record = await runtime.get_worker(worker_id)
    if record is None:
        raise UnknownWorker(
            f"colony {runtime.colony_id!r} has no worker {worker_id!r}: the id is wrong, or its "
            "record was retired. `colony list` shows what there is"
        )
    return record


def why_it_waits(record: WorkerRecord, nodes: Sequence[NodeInfo]) -> str | None:
    """Why a worker does not run, in a sentence; None for one that runs or has ended."""
    if record.state not in (WorkerState.PENDING, WorkerState.PARKED):
        return None
    since = f"({age(record.since)} so far)"
    if record.state is WorkerState.PARKED:
        return f"for {record.waits_for or 'a wake-up'} {since}"
    if record.not_before and record.not_before > datetime.now(UTC):
        return f"for its time: it is not to be started before {_moment(record.not_before)}"
    alive = [node for node in nodes if node.lease_seconds > 0]
    if not alive:
        return f"for a node {since}: none is alive. Start one with `colony worker module:colony`"
    if all(node.version != record.version for node in alive):
        served = ", ".join(sorted({node.version for node in alive}))
        return (
            f"for a node with version {record.version} of the definition {since}: the living ones "
            f"have {served}"
        )
    return f"for {record.waits_for or 'a free slot'} {since}"


def _print_record(record: WorkerRecord, waiting: str | None) -> None:
    stdout().print(
        facts(
            {
                "worker": record.worker_id,
                "colony": f"{record.colony_id} (definition version {record.version})",
                "agent": record.agent,
                "state": coloured(record.state),
                "waits": waiting,
                "stopping": record.stopping,
                "task": record.task,
                "accepted": _moment(record.created_at),
                "deadline": _moment(record.deadline) if record.deadline else None,
                "parent": record.parent_id,
                "correlation": record.correlation_id,
                "model": f"{record.requests:,} requests, {record.tokens_used:,} tokens",
            }
        )
    )
    say("")
    if record.attempts:
        rows = (
            (str(a.epoch), a.node, _moment(a.started_at), a.outcome or "runs")
            for a in record.attempts
        )
        stdout().print(table("ATTEMPT", "NODE", "STARTED", "OUTCOME", rows=rows))
        say("")


def _moment(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


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
    worker_ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID…", help="The workers to stop.")
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Stop every worker that has not ended.")
    ] = False,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Kept in the reports.")] = None,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Stop workers: each ends with a report, status stopped."""
    if bool(worker_ids) == all_:
        raise typer.BadParameter("name the workers to stop, or --all of them", param_hint="'ID…'")

    async def run() -> None:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            if all_:
                stopped = await runtime.stop_all_workers(reason)
                emit_json({"stopped": stopped}) if as_json else say(f"Stopped: {stopped} workers.")
                return
            told = {
                i: await runtime.stop_worker(i, reason) for i in dict.fromkeys(worker_ids or ())
            }
        if as_json:
            emit_json({"workers": [{"worker_id": i, "stopped": ok} for i, ok in told.items()]})
            return
        for worker_id, ok in told.items():
            say(f"{worker_id} {'is stopped' if ok else 'had ended already: nothing was changed'}")

    asyncio.run(run())


def retry(
    worker_id: WorkerId,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Spawn a new worker from the task of one that has ended, and print its id."""

    async def run() -> str:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            return await runtime.retry_worker(worker_id)

    new = asyncio.run(run())
    emit_json({"retried": worker_id, "worker": new}) if as_json else say(new)


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
            table("NODE", "POOL", "RUNNING", "LEASE", "VERSION", rows=map(_node_row, nodes))
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
                "nodes": f"{figures.nodes} with {figures.slots:,} slots",
                "intake": plain("paused", "yellow") if figures.intake_paused else "open",
                "in all": ", ".join(f"{n:,} {name}" for name, n in figures.totals.items()) or None,
                "events": f"{figures.events:,}",
            }
        )
    )


def _node_row(node: NodeInfo) -> tuple[str | Text, ...]:
    lease = f"{node.lease_seconds:.1f} s" if node.lease_seconds > 0 else plain("lost", "red")
    slots = f"{node.running} of {node.concurrency}"
    return node.node, node.pool, slots, lease, node.version


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
