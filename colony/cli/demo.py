"""`colony demo`: a fleet on an embedded Redis surveys a folder while you watch."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Annotated, Protocol

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from colony.cli.connection import settings_of
from colony.cli.durations import short_duration
from colony.cli.nodes import node_process, until_alive
from colony.cli.operators import event_line
from colony.cli.options import AsJson, BrokerUrl, RedisUrl
from colony.cli.output import (
    coloured,
    emit_json,
    note,
    one_line,
    plain,
    report_text,
    say,
    stderr,
    stdout,
    table,
)
from colony.cli.processes import interruptible
from colony.definition import load_colony
from colony.errors import ColonyError
from colony.examples.survey.run import SurveyResult, survey
from colony.models import Event, EventType, Report
from colony.redis_server import EmbeddedRedis
from colony.runtime import ColonyRuntime
from colony.settings import Settings

DEFINITION = "colony.examples.survey:colony"
LAST_REPORTS = 6
LAST_EVENTS = 5
LOG_LINES = 15


def demo(
    folder: Annotated[
        Path,
        typer.Argument(
            exists=True, file_okay=False, help="The folder to survey. Default: this one."
        ),
    ] = Path(),
    output: Annotated[
        Path, typer.Option("--output", "-o", dir_okay=False, help="The page to write.")
    ] = Path("survey.md"),
    max_files: Annotated[int, typer.Option(min=1, help="Survey at most so many files.")] = 200,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """See a fleet at work: a lead has each file of a folder read by a worker, a last one writes survey.md.

    Needs nothing: Redis and a node are started for it and ended after it. With OPENAI_API_KEY or
    ANTHROPIC_API_KEY set (or COLONY_MODEL) an LLM reads; otherwise an offline model, no network.
    """
    settings_of(redis_url, broker_url)
    started = time.monotonic()
    with interruptible(), ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        url = redis_url or _embedded(stack)
        settings = settings_of(url, broker_url)
        node = stack.enter_context(
            node_process(DEFINITION, settings, "--loglevel", "warning", output=log)
        )
        model = _model_in_words()
        note(f"A node (process {node.pid}) is starting. Model: {model}")
        try:
            asyncio.run(until_alive(node, "survey", settings))
            result = asyncio.run(_watched(settings, folder, output, max_files))
        except ColonyError as error:
            raise ColonyError(f"{error}{_last_words(log)}") from error
    if as_json:
        emit_json(_as_json(result, model))
    else:
        _print_result(result, model, time.monotonic() - started)
    if not result.written:
        raise ColonyError(f"the survey was not written: {report_text(result.editor)}")


def _embedded(stack: ExitStack) -> str:
    server = stack.enter_context(EmbeddedRedis())
    note(f"Redis {server.version} was started on {server.url}; it ends with this command.")
    return server.url


def _model_in_words() -> str:
    """What the readers use; the node chooses by the same environment."""
    model = load_colony(DEFINITION).agents["reader"].model
    if isinstance(model, str):
        return f"{model}, an LLM"
    return model.model_name


async def _watched(settings: Settings, folder: Path, output: Path, max_files: int) -> SurveyResult:
    async with ColonyRuntime("survey", settings=settings) as runtime:
        console = stderr()
        with _Screen(console) if console.is_terminal else _Lines() as view:
            ticker = asyncio.create_task(_tick(runtime, view))
            try:
                return await survey(
                    runtime, folder, output, on_progress=view.report, max_files=max_files
                )
            finally:
                ticker.cancel()
                await asyncio.wait([ticker])


async def _tick(runtime: ColonyRuntime, view: _View) -> None:
    async for event in runtime.events():
        view.event(event)


class _View(Protocol):
    """What watches a survey."""

    def report(self, done: int, total: int, report: Report) -> None: ...

    def event(self, event: Event) -> None: ...


class _Lines:
    """Without a terminal: one line per report."""

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def report(self, done: int, total: int, report: Report) -> None:
        note(f"[{done}/{total}] {report.status}  {_what(report)}")

    def event(self, event: Event) -> None:
        pass  # a log of thousands of events helps nobody; `colony events` has them


class _Screen:
    """On a terminal: a bar, the last reports, and a ticker of events."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._width = console.width
        self._bar = Progress(*columns, TimeElapsedColumn(), console=console)
        self._files = self._bar.add_task("reading", total=None)
        self._reports: deque[Text] = deque(maxlen=LAST_REPORTS)
        self._events: deque[Text] = deque(maxlen=LAST_EVENTS)
        self._live = Live(
            get_renderable=self._render, console=console, refresh_per_second=8, transient=True
        )

    def __enter__(self) -> _Screen:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def report(self, done: int, total: int, report: Report) -> None:
        doing = "writing the page" if done == total else "reading"
        self._bar.update(self._files, completed=done, total=total, description=doing)
        line = coloured(f"{report.status:<8}")
        self._reports.append(line.append_text(one_line(_what(report), self._width - 10)))

    def event(self, event: Event) -> None:
        if event.type not in (EventType.LLM_TEXT_DELTA, EventType.SUBAGENT_REPORT):
            line = event_line(event)
            line.truncate(self._width - 1, overflow="ellipsis")
            self._events.append(line)

    def _render(self) -> Group:
        reports, ticker = Text("reports", style="bold"), Text("events", style="bold")
        return Group(self._bar, reports, *self._reports, ticker, *self._events)


def _what(report: Report) -> str:
    path = report.data.get("path")
    return f"{path}: {report_text(report)}" if isinstance(path, str) else report_text(report)


def _as_json(result: SurveyResult, model: str) -> dict[str, object]:
    return {
        "output": str(result.output),
        "written": result.written,
        "model": model,
        "files": list(result.files),
        "reports": list(result.reports),
        "editor": result.editor,
        "left_out": result.left_out,
        "reading_seconds": result.reading_seconds,
        "writing_seconds": result.writing_seconds,
    }


def _print_result(result: SurveyResult, model: str, seconds: float) -> None:
    rows = (
        (
            coloured(r.status),
            short_duration(r.duration_seconds),
            path,
            one_line(report_text(r), 160),
        )
        for path, r in zip(result.files, result.reports, strict=True)
    )
    stdout().print(table("STATUS", "TIME", "FILE", "SUMMARY", rows=rows))
    say("")
    if result.left_out:
        say(f"{result.left_out} more files were left out; --max-files takes more of them.")
    failed = f", {len(result.failed)} of them failed" if result.failed else ""
    say(
        f"{len(result.reports)} reports{failed}; read in {short_duration(result.reading_seconds)}, "
        f"written in {short_duration(result.writing_seconds)}, {short_duration(seconds)} in all."
    )
    say(f"Model: {model}")
    if result.written:
        say(plain(f"The survey is in {result.output}", "bold"))


def _last_words(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()[-LOG_LINES:]
    return "\nThe node's last words:\n" + "\n".join(lines) if lines else ""
