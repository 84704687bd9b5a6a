"""`colony batch`: many tasks from a file, one batch, and its reports as they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.text import Text

from colony.cli.connection import open_runtime, settings_of
from colony.cli.durations import duration_option, short_duration
from colony.cli.harvest import batch_line, existing_batch, is_met, reports_bar, reports_of
from colony.cli.options import (
    AsJson,
    BrokerUrl,
    ColonyName,
    ConcurrencyKey,
    CorrelationId,
    Deadline,
    IdempotencyKey,
    NotBefore,
    Priority,
    Queue,
    RedisUrl,
    SoftDeadline,
)
from colony.cli.output import (
    STYLES,
    emit_json,
    note,
    one_line,
    plain,
    report_text,
    say,
    stderr,
    stdout,
)
from colony.cli.producers import hinting_at_queue
from colony.cli.taskfile import naming_lines, tasks_by_line, text_of
from colony.errors import ColonyError
from colony.models import BatchRecord, Report
from colony.runtime import ColonyRuntime
from colony.spawning import Batch
from colony.store.workers import Policy

Tell = Callable[[Report], None]


def batch(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A task per line; - reads stdin. Lines are plain text, or all of them JSON: "
            'objects {"task": "…", "data": {…}, "agent": "…"} or strings.',
        ),
    ],
    colony: ColonyName = None,
    policy: Annotated[
        Policy | None,
        typer.Option(
            case_sensitive=False,
            help="When it is joined: with all reports, with the first good one (any), or with the "
            "first N good ones (first_n); the rest is then stopped. Default: all, or first_n "
            "where --first-n is given.",
        ),
    ] = None,
    first_n: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="How many good reports are enough.")
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The agent of the tasks that name none themselves."),
    ] = None,
    deadline: Deadline = None,
    soft_deadline: SoftDeadline = None,
    not_before: NotBefore = None,
    priority: Priority = 0,
    concurrency_key: ConcurrencyKey = None,
    idempotency_key: IdempotencyKey = None,
    correlation_id: CorrelationId = None,
    queue: Queue = False,
    wait_: Annotated[
        bool, typer.Option("--wait", "-w", help="Print the reports as they arrive.")
    ] = False,
    timeout: Annotated[
        timedelta | None,
        typer.Option(
            parser=duration_option,
            metavar="DURATION",
            help="With --wait: for how long. What still runs then is left running. "
            "Default: until the batch is joined.",
        ),
    ] = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Give a file of tasks to the fleet, all of them or none, and print the batch's id.

    With --wait the exit code is 0 only if the batch has what its policy asks for: all reports success
    or partial, or any, or N. With --wait --json each report is one line, with its index in the batch.
    """
    options: dict[str, Any] = {
        "policy": _policy(policy, first_n),
        "first_n": first_n,
        "deadline": deadline and deadline.value,
        "not_before": not_before and not_before.value,
        "priority": priority,
        "soft_deadline": soft_deadline,
        "concurrency_key": concurrency_key,
        "idempotency_key": idempotency_key,
        "correlation_id": correlation_id,
        "require_node": not queue,
    }
    name = "stdin" if file == "-" else file
    tasks = tasks_by_line(text_of(file), name, agent)

    async def run() -> None:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            with hinting_at_queue(), naming_lines(name, list(tasks)):
                made = await runtime.spawn_batch(list(tasks.values()), **options)
            if wait_:
                _conclude(await _watch(runtime, made, timeout, as_json=as_json), timeout, as_json)
            elif as_json:
                emit_json({"colony": runtime.colony_id, "batch": made.id, "workers": made})
            else:
                say(made.id)

    asyncio.run(run())


def _policy(policy: Policy | None, first_n: int | None) -> Policy:
    implied = Policy.ALL if first_n is None else Policy.FIRST_N
    if policy is not None and (policy is Policy.FIRST_N) != (first_n is not None):
        raise typer.BadParameter(
            "--first-n N goes with --policy first_n, and that policy needs it",
            param_hint="'--first-n'",
        )
    return policy or implied


# -- the reports ------------------------------------------------------------------------------


async def _watch(
    runtime: ColonyRuntime, made: Batch, timeout: timedelta | None, *, as_json: bool
) -> BatchRecord:
    """Print the reports as they arrive, beside a bar on stderr; then the batch as it is."""
    note(f"{made.id}: {len(made):,} workers")
    seconds = None if timeout is None else timeout.total_seconds()
    index = {worker_id: position for position, worker_id in enumerate(made)}
    on_screen = stdout().is_terminal
    bar = reports_bar(stderr())
    shown = bar.console.is_terminal and not (as_json and on_screen)
    # Where both streams are the same screen, the bar must know of what is printed over it.
    console = bar.console if shown and on_screen else stdout()
    count = bar.add_task("", total=len(made))

    def tell(report: Report) -> None:
        if as_json:
            whole = report.model_dump(mode="json")
            emit_json({"batch_id": made.id, "index": index[report.worker_id], **whole}, indent=None)
        else:
            console.print(_line(report), soft_wrap=True)
        bar.advance(count)

    try:
        with bar if shown else nullcontext():
            await follow(runtime, made, seconds, tell)
    except asyncio.CancelledError:
        note(f"Interrupted. The batch goes on: `colony wait {made.id}` waits for it again.")
        raise
    return await existing_batch(runtime, made.id)


async def follow(runtime: ColonyRuntime, made: Batch, timeout: float | None, tell: Tell) -> None:
    """Tell each report once, as it arrives, until the batch is joined or `timeout` seconds are over."""
    ended: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()
    joined = asyncio.create_task(runtime.wait_for_batch(made.id, timeout))
    members = [asyncio.create_task(runtime.wait_for_worker(worker_id)) for worker_id in made]
    for waiter in (joined, *members):
        waiter.add_done_callback(ended.put_nowait)
    told: set[str] = set()
    try:
        while (task := await ended.get()) is not joined:
            report: Report = task.result()
            told.add(report.worker_id)
            tell(report)
        joined.result()
    finally:
        for waiter in (joined, *members):
            waiter.cancel()
        await asyncio.gather(joined, *members, return_exceptions=True)
    for report in await reports_of(runtime, made.id, len(made)):
        if report.worker_id not in told:
            tell(report)


def _line(report: Report) -> Text:
    line = Text().append_text(plain(f"{report.status:<8}", STYLES.get(report.status, "")))
    tokens = f"{report.tokens_used:,}"
    time = short_duration(report.duration_seconds)
    line.append_text(plain(f"  {report.worker_id}  {time:>9}  {tokens:>7}  "))
    line.append_text(one_line(report_text(report), 200))
    return line


def _conclude(batch: BatchRecord, timeout: timedelta | None, as_json: bool) -> None:
    if not as_json:
        say(batch_line(batch))
    if batch.result is None:
        waited = short_duration(timeout.total_seconds() if timeout else 0)
        raise ColonyError(
            f"after {waited} {batch.batch_id} was not joined ({batch.arrived:,} of {batch.size:,} "
            f"were in) and was left running. Wait again with `colony wait {batch.batch_id}`, or end "
            f"it with `colony stop {batch.batch_id}`"
        )
    if not is_met(batch):
        raise typer.Exit(1)
