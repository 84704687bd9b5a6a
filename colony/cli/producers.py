"""The producer's commands: spawn and wait."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from colony.cli.connection import open_runtime, settings_of
from colony.cli.durations import When, duration_option, short_duration, when_option
from colony.cli.options import AsJson, BrokerUrl, ColonyName, RedisUrl
from colony.cli.output import emit_json, facts, note, plain, reports_table, say, stderr, stdout
from colony.errors import ColonyError, NoNodes
from colony.models import EventType, Report, ReportStatus
from colony.runtime import ColonyRuntime

ENDINGS = (
    EventType.SUBAGENT_REPORT,
    EventType.EXECUTION_COMPLETED,
    EventType.EXECUTION_FAILED,
    EventType.EXECUTION_STOPPED,
)

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
    """What a wait brought in: reports in the order of the ids, and who was still at work."""

    reports: list[Report]
    running: list[str]

    @property
    def ok(self) -> bool:
        """Everybody ended, with success or partial."""
        return not self.running and all(report.ok for report in self.reports)


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
    deadline: Annotated[
        When | None,
        typer.Option(
            parser=when_option,
            metavar="WHEN",
            help="When the worker must have ended: a duration from now, or a time. Then it ends "
            "with status timeout.",
        ),
    ] = None,
    not_before: Annotated[
        When | None,
        typer.Option(parser=when_option, metavar="WHEN", help="Not to be started before this."),
    ] = None,
    priority: Annotated[
        int,
        typer.Option(
            help="A number of yours, kept with the worker; the queue is first in, first out."
        ),
    ] = 0,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="A repeated spawn with the same key gives the first one's workers."
        ),
    ] = None,
    correlation_id: Annotated[
        str | None, typer.Option(metavar="ID", help="An id of yours that all events carry.")
    ] = None,
    queue: Annotated[
        bool,
        typer.Option(
            "--queue", help="Accept the task although no node is alive: it waits for one."
        ),
    ] = False,
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
        "idempotency_key": idempotency_key,
        "correlation_id": correlation_id,
        "require_node": not queue,
    }
    text = sys.stdin.read() if task == "-" else task

    async def run() -> None:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            ids = await _spawn(runtime, text, options)
            if wait_:
                _finish(await _collect(runtime, ids, timeout), timeout, as_json=as_json)
            elif as_json:
                emit_json({"colony": runtime.colony_id, "workers": ids})
            else:
                stdout().print("\n".join(ids), soft_wrap=True)

    asyncio.run(run())


def wait(
    worker_ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Ids that spawn printed.")],
    colony: ColonyName = None,
    timeout: Timeout = TEN_MINUTES,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Wait until workers have ended and print their reports.

    The exit code is 0 only if every report is success or partial. Nobody is stopped by a time-out.
    """

    async def run() -> None:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            _finish(await _collect(runtime, worker_ids, timeout), timeout, as_json=as_json)

    asyncio.run(run())


async def _spawn(runtime: ColonyRuntime, task: str, options: dict[str, Any]) -> list[str]:
    try:
        return await runtime.spawn(task, **options)
    except NoNodes as error:
        raise NoNodes(f"{error}. On the command line: --queue accepts the task anyway") from error


def _read_data(given: str | None, *, task_from_stdin: bool) -> dict[str, Any] | None:
    if given is None:
        return None
    if given == "@-" and task_from_stdin:
        _wrong_data("TASK and --data cannot both be read from stdin; put one of them in a file")
    try:
        return _parse_object(_read(given[1:]) if given.startswith("@") else given)
    except (OSError, UnicodeDecodeError) as error:
        _wrong_data(f"{given[1:]} cannot be read as UTF-8 text: {error}")
    except ValueError as error:
        _wrong_data(f"expected a JSON object, or @FILE: {error}")


def _read(path: str) -> str:
    return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")


def _parse_object(text: str) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    parsed = json.loads(text, parse_constant=refuse)
    if not isinstance(parsed, dict):
        raise ValueError(
            f"got {type(parsed).__name__} instead of an object such as '{{\"key\": 1}}'"
        )
    return parsed


def _wrong_data(message: str) -> NoReturn:
    raise typer.BadParameter(message, param_hint="'--data'")


async def _collect(runtime: ColonyRuntime, ids: Sequence[str], timeout: timedelta) -> Harvest:
    try:
        async with _progress(runtime, ids):
            reports = await runtime.wait_for_worker_reports(
                ids, timeout.total_seconds(), stop_on_timeout=False
            )
    except asyncio.CancelledError:
        note("Interrupted. The workers go on: `colony wait` takes the same ids again.")
        raise
    running: list[str] = []
    for report in reports:
        # A time-out of the wait looks like one of the worker, but only that one has a result.
        late = report.status is ReportStatus.TIMEOUT
        if late and await runtime.get_worker_result(report.worker_id) is None:
            running.append(report.worker_id)
    return Harvest([r for r in reports if r.worker_id not in running], running)


@asynccontextmanager
async def _progress(runtime: ColonyRuntime, ids: Sequence[str]) -> AsyncIterator[None]:
    """A bar on stderr while the reports come in; nothing where there is no terminal."""
    console = stderr()
    if not console.is_terminal:
        yield
        return
    columns = (
        TextColumn("waiting for reports"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
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


def _finish(harvest: Harvest, timeout: timedelta, *, as_json: bool) -> None:
    if as_json:
        emit_json({"reports": harvest.reports, "running": harvest.running})
    else:
        _print_reports(harvest.reports)
    if harvest.running:
        waited = short_duration(timeout.total_seconds())
        raise ColonyError(
            f"after {waited} {len(harvest.running)} workers had not ended and were left running: "
            f"{', '.join(harvest.running[:5])}{', …' if len(harvest.running) > 5 else ''}. "
            "Wait again, or end them with `colony stop`"
        )
    if not harvest.ok:
        raise typer.Exit(1)


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
