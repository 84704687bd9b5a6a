"""Waiting for reports, of workers and of batches: with a bar meanwhile, and printed in the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from colony.cli.durations import duration_option, short_duration
from colony.cli.output import emit_json, facts, note, plain, reports_table, say, stderr, stdout
from colony.errors import ColonyError, UnknownBatch
from colony.models import BatchRecord, EventType, Report, ReportStatus
from colony.runtime import ColonyRuntime

ENDINGS = (
    EventType.SUBAGENT_REPORT,
    EventType.EXECUTION_COMPLETED,
    EventType.EXECUTION_FAILED,
    EventType.EXECUTION_STOPPED,
)
PAGE = 500

Timeout = Annotated[
    timedelta,
    typer.Option(
        parser=duration_option,
        metavar="DURATION",
        help="How long to wait for the reports. What still runs then is left running.",
    ),
]
TEN_MINUTES: Any = "10m"


@dataclass(frozen=True, slots=True)
class Harvest:
    """What a wait brought in.

    `reports` are in the order of the ids, those of a batch in its place; `running` are the workers
    and batches that have not ended, `batches` all that were asked for.
    """

    reports: list[Report]
    running: list[str]
    batches: list[BatchRecord]

    @property
    def ok(self) -> bool:
        """All ended, each worker with success or partial, each batch as its policy asks."""
        members = {m.worker_id for b in self.batches if b.result for m in b.result.members}
        workers = [report for report in self.reports if report.worker_id not in members]
        return (
            not self.running
            and all(report.ok for report in workers)
            and all(map(is_met, self.batches))
        )


def is_batch(some_id: str) -> bool:
    """Whether an id is that of a batch, by its first letter; others are of workers."""
    return some_id.startswith("b")


def is_met(batch: BatchRecord) -> bool:
    """Joined, with as many good reports as the policy asks for (`BatchResult.ok`)."""
    return batch.result is not None and batch.result.ok


async def existing_batch(runtime: ColonyRuntime, batch_id: str) -> BatchRecord:
    """The record of a batch that must be there."""
    record = await runtime.get_batch(batch_id)
    if record is None:
        raise UnknownBatch(
            f"colony {runtime.colony_id!r} has no batch {batch_id!r}: the id is wrong, or the batch "
            "was retired with its workers"
        )
    return record


async def reports_of(runtime: ColonyRuntime, batch_id: str, size: int) -> list[Report]:
    """The reports of a batch that are in, in the order of its members."""
    pages = [
        await runtime.get_batch_reports(batch_id, start, PAGE) for start in range(0, size, PAGE)
    ]
    return [report for page in pages for report in page if report is not None]


async def collect(runtime: ColonyRuntime, ids: Sequence[str], timeout: timedelta) -> Harvest:
    """Wait for workers and batches side by side; nobody is stopped when the time is over."""
    members = {i: await runtime.get_batch_members(i) for i in dict.fromkeys(ids) if is_batch(i)}
    workers = [i for i in ids if i not in members]
    seconds = timeout.total_seconds()
    try:
        async with _progress(runtime, [w for i in ids for w in members.get(i, [i])]):
            joins = asyncio.gather(*(runtime.wait_for_batch(b, seconds) for b in members))
            reports = runtime.wait_for_worker_reports(workers, seconds, stop_on_timeout=False)
            found, _ = await asyncio.gather(reports, joins)
    except asyncio.CancelledError:
        note("Interrupted. The workers go on: `colony wait` takes the same ids again.")
        raise
    return await _harvest(runtime, ids, dict(zip(workers, found, strict=True)))


async def _harvest(runtime: ColonyRuntime, ids: Sequence[str], found: dict[str, Report]) -> Harvest:
    reports: list[Report] = []
    running: list[str] = []
    batches: dict[str, BatchRecord] = {}
    for some_id in ids:
        if some_id in found:
            report = found[some_id]
            # A time-out of the wait looks like one of the worker, but only that one has a result.
            late = report.status is ReportStatus.TIMEOUT
            if late and await runtime.get_worker_result(some_id) is None:
                running.append(some_id)
            else:
                reports.append(report)
        elif some_id not in batches:
            batches[some_id] = batch = await existing_batch(runtime, some_id)
            reports += await reports_of(runtime, some_id, batch.size)
            if batch.result is None:
                running.append(some_id)
    return Harvest(reports, running, list(batches.values()))


def reports_bar(console: Console) -> Progress:
    """A bar that counts reports, and goes when they are in."""
    columns = (
        TextColumn("waiting for reports"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # Where only stderr is a terminal, what is printed must still go to stdout.
    return Progress(*columns, console=console, transient=True, redirect_stdout=False)


@asynccontextmanager
async def _progress(runtime: ColonyRuntime, ids: Sequence[str]) -> AsyncIterator[None]:
    """A bar on stderr while the reports come in; nothing where there is no terminal."""
    console = stderr()
    if not console.is_terminal:
        yield
        return
    with reports_bar(console) as bar:
        bar_task = bar.add_task("", total=len(set(ids)))
        follower = asyncio.create_task(_advance(runtime, set(ids), bar, bar_task))
        try:
            yield
        finally:
            follower.cancel()
            outcome = (await asyncio.gather(follower, return_exceptions=True))[0]
    if isinstance(outcome, ColonyError):
        note(f"The progress bar stood still: {outcome}")


async def _advance(runtime: ColonyRuntime, awaited: set[str], bar: Progress, bar_task: Any) -> None:
    async for event in runtime.events(types=ENDINGS, after="0"):
        if event.worker_id in awaited:
            awaited.remove(event.worker_id)
            bar.advance(bar_task)


def finish(harvest: Harvest, timeout: timedelta, *, as_json: bool) -> None:
    """Print a harvest, and end with exit code 1 where it is not all that was hoped for."""
    if as_json:
        emit_json(
            {
                "reports": harvest.reports,
                "running": harvest.running,
                "batches": harvest.batches,
            }
        )
    else:
        _print_reports(harvest.reports)
        for batch in harvest.batches:
            say(batch_line(batch))
    if harvest.running:
        waited = short_duration(timeout.total_seconds())
        raise ColonyError(
            f"after {waited} {_kinds(harvest.running)} had not ended and were "
            f"left running: {', '.join(harvest.running[:5])}"
            f"{', …' if len(harvest.running) > 5 else ''}. Wait again, or end them with `colony stop`"
        )
    if not harvest.ok:
        raise typer.Exit(1)


def _kinds(ids: Sequence[str]) -> str:
    batches = sum(map(is_batch, ids))
    counts = {"worker": len(ids) - batches, "batch": batches}
    plural = {"worker": "workers", "batch": "batches"}
    return " and ".join(f"{n:,} {one if n == 1 else plural[one]}" for one, n in counts.items() if n)


def batch_line(batch: BatchRecord) -> str:
    """A batch in one line: how many are in, and how they ended."""
    if batch.result is None:
        return f"{batch.batch_id} is open: {batch.arrived:,} of {batch.size:,} are in"
    return f"{batch.batch_id} is joined: {counts_of(batch)}"


def counts_of(batch: BatchRecord) -> str:
    """The members of a joined batch by status, in words."""
    counts = batch.result.counts if batch.result else {}
    return ", ".join(f"{counts[status]:,} {status}" for status in ReportStatus if status in counts)


def _print_reports(reports: Sequence[Report]) -> None:
    if len(reports) != 1:
        stdout().print(reports_table(reports))
        return
    print_report(reports[0])


def print_report(report: Report) -> None:
    """One report in full: its summary as it is, and its data as JSON."""
    cost = None if report.cost_usd is None else f"${report.cost_usd:.4f}"
    stdout().print(
        facts(
            {
                "worker": report.worker_id,
                "status": report.status,
                "summary": report.summary,
                "error": report.error,
                "time": short_duration(report.duration_seconds),
                "tokens": f"{report.tokens_used:,}",
                "cost": cost,
            }
        )
    )
    if report.data:
        say(plain(json.dumps(report.data, indent=2, ensure_ascii=False)))
