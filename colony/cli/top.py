"""`colony top`: the fleet at work, live in the terminal."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from colony.cli.connection import open_runtime, settings_of
from colony.cli.durations import age, short_duration
from colony.cli.operators import LAG_WARNING_MS
from colony.cli.options import AsJson, BrokerUrl, ColonyName, RedisUrl
from colony.cli.output import coloured, emit_json, plain, stdout
from colony.cli.processes import interruptible
from colony.errors import StoreUnavailable, UnknownColony
from colony.events import position_of
from colony.listing import WorkerSummary
from colony.models import Event, EventType, FleetStats, NodeInfo, WorkerState
from colony.runtime import ColonyRuntime

WINDOW = timedelta(minutes=1)
MOST_EVENTS = 2000
"""Events that one frame reads at most. Where more happen in it, what is read stands for the rest."""
NODES = 4
"""Nodes that are shown, the fullest first."""
WORKERS = 100
"""Workers of each state that a frame reads: those that have been in it for the longest."""
HEAD = 3
SHOWN = (WorkerState.RUNNING, WorkerState.PARKED, WorkerState.PENDING)
ENDED = (WorkerState.COMPLETED, WorkerState.FAILED, WorkerState.STOPPED)


@dataclass(frozen=True, slots=True)
class Frame:
    """The fleet at one moment."""

    at: datetime
    stats: FleetStats
    nodes: list[NodeInfo]
    queue: int | None
    intake: int | None
    tokens_per_minute: float
    cost_per_minute: float
    workers: dict[WorkerState, list[WorkerSummary]]

    def as_json(self) -> dict[str, Any]:
        """What machines read of it."""
        return {
            "at": self.at.isoformat(),
            "stats": self.stats,
            "nodes": self.nodes,
            "queue_depth": self.queue,
            "intake_depth": self.intake,
            "tokens_per_minute": round(self.tokens_per_minute),
            "cost_usd_per_minute": round(self.cost_per_minute, 6),
            "workers": [worker for state in SHOWN for worker in self.workers[state]],
        }


@dataclass(slots=True)
class Spending:
    """Tokens and cost of the last minute, from the events of model answers."""

    latest: str | None = None
    answers: deque[tuple[datetime, int, float]] = field(default_factory=deque)

    async def read_on(self, runtime: ColonyRuntime) -> None:
        """What came since the last time, as far as it is kept; all there is in a Redis that lost its data."""
        events = await runtime.recent_events(MOST_EVENTS, after=self.latest)
        if not events and self.latest is not None:
            newest = [one.id for one in await runtime.recent_events(1) if one.id is not None]
            if newest and position_of(newest[0]) < position_of(self.latest):
                events = await runtime.recent_events(MOST_EVENTS)
        self.take(events, since=await runtime.now() - WINDOW)

    def take(self, events: Sequence[Event], since: datetime) -> None:
        """Add these, and forget what is older; both by Redis' clock."""
        if events:
            self.latest = events[-1].id
            self._add(events, since)
        while self.answers and self.answers[0][0] < since:
            self.answers.popleft()

    def _add(self, events: Sequence[Event], since: datetime) -> None:
        """A page that is full stands for all that happened in its time and before it in the window."""
        scale = 1.0
        if len(events) == MOST_EVENTS and self.latest is not None:
            span = (events[-1].at - events[0].at).total_seconds()
            before = self.answers[-1][0] if self.answers else since
            whole = (events[-1].at - before).total_seconds()
            scale = max(1.0, whole / span) if span > 0 else 1.0
        for event in events:
            if event.type == EventType.LLM_TURN_COMPLETE:
                data = event.data
                tokens = (data.get("input_tokens") or 0) + (data.get("output_tokens") or 0)
                cost = data.get("cost_usd") or 0.0
                self.answers.append((event.at, round(scale * tokens), scale * cost))

    @property
    def tokens(self) -> float:
        """In the last minute."""
        return sum(tokens for _, tokens, _ in self.answers)

    @property
    def cost(self) -> float:
        """In the last minute, of models whose price is known, in USD."""
        return sum(cost for _, _, cost in self.answers)


async def look(runtime: ColonyRuntime, spending: Spending) -> Frame:
    """One frame: a bounded number of reads, whatever there is."""
    depths, spent = asyncio.create_task(_depths(runtime)), spending.read_on(runtime)
    stats, nodes, _ = await asyncio.gather(runtime.get_stats(), runtime.list_nodes(), spent)
    workers = {state: await runtime.longest_in(state, WORKERS) for state in SHOWN}
    queue, intake = await depths
    nodes = sorted(nodes, key=lambda node: (node.lease_seconds > 0, -node.running, node.node))
    per_minute = spending.tokens, spending.cost
    return Frame(datetime.now(UTC), stats, nodes, queue, intake, *per_minute, workers)


async def _depths(runtime: ColonyRuntime) -> tuple[int | None, int | None]:
    """Messages of doorbells and of foreign producers; None while the broker is away."""
    try:
        return await runtime.queue_depth(), await runtime.intake_depth()
    except StoreUnavailable:
        return None, None


def top(
    colony: ColonyName = None,
    interval: Annotated[
        float, typer.Option(min=0.2, metavar="SECONDS", help="From one look to the next.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show the fleet at work, live, until Ctrl-C: nodes, queue, what each worker waits for, tokens and cost.

    Of the workers those that have been in their state for the longest. Where the output is no terminal, one
    frame is printed; with --json one line per frame.
    """

    async def run() -> None:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            spending = Spending()
            if once or not (as_json or stdout().is_terminal):
                frame = await look(runtime, spending)
                emit_json(frame.as_json()) if as_json else stdout().print(_page(frame))
            elif as_json:
                while True:
                    began = time.monotonic()
                    emit_json((await look(runtime, spending)).as_json(), indent=None)
                    await _rest(began, interval)
            else:
                await _live(runtime, spending, interval)

    try:
        with interruptible():
            asyncio.run(run())
    except KeyboardInterrupt:
        pass  # it is how one leaves


async def _live(runtime: ColonyRuntime, spending: Spending, interval: float) -> None:
    console, known = stdout(), False
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            try:
                shown = _page(await look(runtime, spending), console.height, console.width)
                known = True
            except (StoreUnavailable, UnknownColony) as error:
                if isinstance(error, UnknownColony) and not known:
                    raise  # else Redis lost it, and nodes are about to register it again
                shown = plain(f"{error}. Trying again.", "red")
            live.update(shown, refresh=True)
            await _rest(began, interval)


async def _rest(began: float, interval: float) -> None:
    await asyncio.sleep(max(0.05, interval - (time.monotonic() - began)))


# -- a page -----------------------------------------------------------------------------------


def _page(frame: Frame, height: int = 24, width: int | None = None) -> RenderableType:
    """A frame as text that fits so many lines (what is left out is said)."""
    nodes = frame.nodes[:NODES]
    more = len(frame.nodes) - len(nodes)
    used = HEAD + 1 + (len(nodes) + 1 if nodes else 1) + bool(more) + 1 + 1 + 1
    chosen = _choose(frame.workers, max(1, height - 1 - used))
    shown = sum(map(len, chosen.values()))
    there = sum(frame.stats.states.get(state, 0) for state in SHOWN)
    parts: list[RenderableType] = [*_head(frame), Text()]
    parts.append(_nodes(nodes) if nodes else plain("No nodes: colony worker MODULE:COLONY", "red"))
    if more:
        parts.append(plain(f"… {more:,} more nodes", "dim"))
    parts.append(Text())
    if shown:
        parts.append(_workers(chosen))
    if there > shown:
        parts.append(plain(f"… {there - shown:,} more workers: colony list", "dim"))
    elif not there:
        parts.append(plain("No worker runs or waits.", "dim"))
    return Group(*parts)


def _head(frame: Frame) -> list[Text]:
    stats, oldest = frame.stats, frame.stats.oldest_pending_seconds
    running = sum(node.running for node in frame.nodes if node.lease_seconds > 0)
    first = plain(f"colony {stats.colony_id}", "bold")
    first.append(f" · {stats.nodes} nodes · {running:,} of {stats.slots:,} slots")
    if stats.intake_paused:
        first.append(" · intake paused", "yellow")
    if stats.quarantined:
        first.append(f" · {stats.quarantined:,} quarantined", "red")
    first.append(f" · {frame.at.astimezone():%H:%M:%S}", "dim")
    second = Text()
    for state in (*SHOWN, *ENDED):
        second.append_text(coloured(state)).append(f" {stats.states.get(state, 0):,}  ")
    wait = "nobody waits" if oldest is None else f"oldest waits {short_duration(oldest)}"
    depth = "away" if frame.queue is None else f"{frame.queue:,}"
    third = plain(f"queue {depth} · {wait}")
    if frame.intake:
        third.append(f" · intake {frame.intake:,}")
    third.append(f" · {frame.tokens_per_minute:,.0f} tokens/min")
    third.append(f" · ${frame.cost_per_minute:,.4f}/min")
    return [_cut(line) for line in (first, second, third)]


def _cut(line: Text) -> Text:
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _table(*columns: tuple[str, dict[str, Any]]) -> Table:
    made = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False
    )
    for name, options in columns:
        made.add_column(name, no_wrap=True, overflow="ellipsis", **options)
    return made


def _nodes(nodes: Sequence[NodeInfo]) -> Table:
    right: dict[str, Any] = {"justify": "right", "min_width": 5}
    made = _table(
        ("NODE", {"ratio": 1, "max_width": 34}), ("LEASE", right), ("LAG", right), ("SLOTS", right)
    )
    for node in nodes:
        lease = plain(f"{node.lease_seconds:.1f} s")
        if node.lease_seconds <= 0:
            lease = plain("lost", "red")
        elif node.draining:
            lease = plain("drains", "yellow")
        lag = plain(f"{node.lag_ms:,} ms", "yellow" if node.lag_ms > LAG_WARNING_MS else "")
        made.add_row(plain(node.node), lease, lag, f"{node.running:,} of {node.concurrency:,}")
    return made


def _workers(workers: dict[WorkerState, list[WorkerSummary]]) -> Table:
    made = _table(
        ("WORKER", {"min_width": 22, "max_width": 26}),
        ("STATE", {"min_width": 7}),
        ("AGENT", {"max_width": 14}),
        ("WAITS FOR", {"max_width": 16}),
        ("SINCE", {"justify": "right", "min_width": 7}),
    )
    for state in SHOWN:
        for worker in workers[state]:
            why = worker.waits_for or ("a free slot" if state is WorkerState.PENDING else "-")
            row = (plain(worker.worker_id), coloured(state), plain(worker.agent), plain(why))
            made.add_row(*row, age(worker.since))
    return made


def _choose(
    workers: dict[WorkerState, list[WorkerSummary]], room: int
) -> dict[WorkerState, list[WorkerSummary]]:
    """As many as there is room for: of each state a fair share, what one leaves goes to the others."""
    chosen: dict[WorkerState, list[WorkerSummary]] = {}
    for left, state in zip(
        (3, 2, 1), sorted(SHOWN, key=lambda state: len(workers[state])), strict=True
    ):
        chosen[state] = workers[state][: room // left]
        room -= len(chosen[state])
    return chosen
