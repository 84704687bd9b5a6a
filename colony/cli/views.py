"""What there is: workers as a list; one worker, or one batch, in full."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from colony.cli.connection import open_runtime, settings_of
from colony.cli.durations import age, short_duration
from colony.cli.harvest import PAGE, counts_of, existing_batch, is_batch, print_report
from colony.cli.options import AsJson, BrokerUrl, ColonyName, RedisUrl
from colony.cli.output import (
    coloured,
    emit_json,
    facts,
    one_line,
    plain,
    report_text,
    say,
    stdout,
    table,
)
from colony.cli.transcript import transcript
from colony.errors import UnknownWorker
from colony.models import BatchRecord, NodeInfo, WorkerRecord, WorkerState
from colony.runtime import ColonyRuntime

MEMBERS = 100
"""Members of a batch that are shown, unless all are asked for."""


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
    where = record.node or (record.attempts[-1].node if record.attempts else "-")
    since = f"{age(record.since)} ago"
    return record.worker_id, state_of(record), since, record.agent, where, one_line(record.task, 80)


def state_of(record: WorkerRecord) -> Text:
    """A worker's state, and beside it what it waits for, or its report's status."""
    state = coloured(record.state)
    beside = record.waits_for or (record.report and record.report.status)
    return state.append_text(plain(f" ({beside})")) if beside else state


def show(
    some_id: Annotated[str, typer.Argument(metavar="ID", help="The id of a worker or of a batch.")],
    colony: ColonyName = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Do not cut the conversation's texts, or the list of a batch's members."
        ),
    ] = False,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show one worker: its state, why it waits, its attempts, its conversation and its report.

    Or one batch: its state, how many are in, how they ended, and its members.
    """

    async def run() -> None:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            if is_batch(some_id):
                await _show_batch(runtime, some_id, full=full, as_json=as_json)
            else:
                await _show_worker(runtime, some_id, full=full, as_json=as_json)

    asyncio.run(run())


async def _show_worker(
    runtime: ColonyRuntime, worker_id: str, *, full: bool, as_json: bool
) -> None:
    record = await existing_worker(runtime, worker_id)
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


async def existing_worker(runtime: ColonyRuntime, worker_id: str) -> WorkerRecord:
    """The record of a worker that must be there."""
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
                "batch": record.batch_id,
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


# -- one batch --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """A worker of a batch; without a record once that was retired."""

    worker_id: str
    record: WorkerRecord | None
    status: str | None

    def as_json(self, index: int) -> dict[str, Any]:
        """What machines read of it."""
        record = self.record
        return {
            "index": index,
            "worker_id": self.worker_id,
            "state": record and record.state,
            "status": self.status,
            "waits_for": record and record.waits_for,
            "report": record and record.report,
        }


async def _members(runtime: ColonyRuntime, batch: BatchRecord, count: int) -> list[Member]:
    ids = await runtime.get_batch_members(batch.batch_id, 0, count)
    known = {m.worker_id: m.status.value for m in batch.result.members} if batch.result else {}
    made: list[Member] = []
    for start in range(0, len(ids), PAGE):
        page = ids[start : start + PAGE]
        records = await asyncio.gather(*(runtime.get_worker(worker_id) for worker_id in page))
        made += [
            Member(i, record, record.report.status if record and record.report else known.get(i))
            for i, record in zip(page, records, strict=True)
        ]
    return made


async def _show_batch(runtime: ColonyRuntime, batch_id: str, *, full: bool, as_json: bool) -> None:
    batch = await existing_batch(runtime, batch_id)
    members = await _members(runtime, batch, batch.size if full or as_json else MEMBERS)
    if as_json:
        shown = [member.as_json(index) for index, member in enumerate(members)]
        emit_json({"batch": batch, "members": shown})
        return
    _print_batch(batch)
    say("")
    columns = ("STATE", "WORKER", "TIME", "TOKENS", "SUMMARY OR TASK")
    stdout().print(table(*columns, rows=map(_member_row, members)))
    if len(members) < batch.size:
        say(f"… {batch.size - len(members):,} more members; --full shows them")


def _print_batch(batch: BatchRecord) -> None:
    wanted = f"{batch.need:,} good reports of {batch.size:,}" if batch.need <= batch.size else "all"
    result = batch.result
    stdout().print(
        facts(
            {
                "batch": batch.batch_id,
                "state": coloured(batch.state),
                "policy": f"{batch.policy} ({wanted})" if wanted != "all" else batch.policy,
                "in": f"{batch.arrived:,} of {batch.size:,}",
                "ended as": counts_of(batch) or None,
                "accepted": _moment(batch.created_at),
                "deadline": _moment(batch.deadline) if batch.deadline else None,
                "joined": _moment(result.joined_at) if result else None,
                "parent": batch.parent_id,
                "correlation": result.correlation_id if result else None,
            }
        )
    )


def _member_row(member: Member) -> tuple[str | Text, ...]:
    record = member.record
    if record is None:
        return coloured(member.status or "-"), member.worker_id, "-", "-", "its record was retired"
    if report := record.report:
        time, words = short_duration(report.duration_seconds), report_text(report)
    else:
        time, words = age(record.started_at) if record.started_at else "-", record.task
    tokens = f"{record.tokens_used:,}"
    return state_of(record), record.worker_id, time, tokens, one_line(words, 100)
