"""`colony tree`: a worker, or a batch, with everything below it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.text import Text
from rich.tree import Tree

from colony.cli.connection import open_runtime, settings_of
from colony.cli.durations import age, short_duration
from colony.cli.harvest import PAGE, batch_line, existing_batch, is_batch
from colony.cli.options import AsJson, BrokerUrl, ColonyName, RedisUrl
from colony.cli.output import emit_json, one_line, plain, say, stdout
from colony.cli.views import existing_worker, state_of, why_it_waits
from colony.models import BatchRecord, NodeInfo, WorkerRecord, WorkerState
from colony.runtime import ColonyRuntime


@dataclass(slots=True)
class Branch:
    """A worker and those that it has spawned; without a record once that was retired."""

    worker_id: str
    record: WorkerRecord | None = None
    children: list[Branch] = field(default_factory=list)

    def walk(self) -> Iterator[Branch]:
        """It and all below."""
        yield self
        for child in self.children:
            yield from child.walk()


def tree(
    some_id: Annotated[str, typer.Argument(metavar="ID", help="The id of a worker or of a batch.")],
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show a worker with all its descendants: state, time, tokens, and what each waits for.

    Of a batch: each of its members so. JSON is nested as the tree is.
    """

    async def run() -> None:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            if is_batch(some_id):
                batch = await existing_batch(runtime, some_id)
                tops = [Branch(i) for i in await runtime.get_batch_members(some_id)]
            else:
                batch = None
                tops = [Branch(some_id, await existing_worker(runtime, some_id))]
            await _grow(runtime, tops)
            nodes = await runtime.list_nodes()
        if as_json:
            nested = [_as_json(top, nodes) for top in tops]
            emit_json({"batch": batch, "children": nested} if batch else nested[0])
        else:
            _print(batch, tops, nodes)

    asyncio.run(run())


async def _grow(runtime: ColonyRuntime, level: list[Branch]) -> None:
    """Read the records and the children, one level after the other."""
    while level:
        below: list[Branch] = []
        for start in range(0, len(level), PAGE):
            page = level[start : start + PAGE]
            await asyncio.gather(*(_read(runtime, branch) for branch in page))
            below += [child for branch in page for child in branch.children]
        level = below


async def _read(runtime: ColonyRuntime, branch: Branch) -> None:
    branch.record, ids = await asyncio.gather(
        runtime.get_worker(branch.worker_id), runtime.get_children(branch.worker_id)
    )
    branch.children = [Branch(worker_id) for worker_id in ids]


def _in_order(children: Sequence[Branch]) -> list[Branch]:
    """Batch after batch, as they were spawned; those without a record last."""

    def place(child: Branch) -> tuple[bool, float, int]:
        if (record := child.record) is None:
            return True, 0, 0
        return False, record.created_at.timestamp(), record.batch_index or 0

    return sorted(children, key=place)


def _as_json(branch: Branch, nodes: Sequence[NodeInfo]) -> dict[str, Any]:
    return {
        "worker_id": branch.worker_id,
        "worker": branch.record,
        "waiting": branch.record and _waiting(branch, branch.record, nodes),
        "children": [_as_json(child, nodes) for child in _in_order(branch.children)],
    }


def _waiting(branch: Branch, record: WorkerRecord, nodes: Sequence[NodeInfo]) -> str | None:
    why = why_it_waits(record, nodes)
    if why is None or record.waits_for != "children":
        return why
    awaited = [child.record for child in branch.children if child.record]
    out = sum(not child.state.terminal for child in awaited)
    return why.replace("children", f"{out:,} of {len(awaited):,} children", 1)


# -- for people -------------------------------------------------------------------------------


def _print(batch: BatchRecord | None, tops: Sequence[Branch], nodes: Sequence[NodeInfo]) -> None:
    if batch is None:
        [top] = tops
        drawn = Tree(_label(top, nodes))
        _draw(drawn, top.children, nodes)
    else:
        drawn = Tree(plain(batch_line(batch), "bold"))
        _draw(drawn, tops, nodes)
    stdout().print(drawn, no_wrap=True, crop=False, soft_wrap=True)
    say(_sum([branch for top in tops for branch in top.walk()]))
    root = tops[0].record.root_id if batch is None and tops[0].record else None
    if root and root != tops[0].worker_id:
        say(plain(f"It is a part of the tree of {root}.", "dim"))


def _draw(onto: Tree, branches: Sequence[Branch], nodes: Sequence[NodeInfo]) -> None:
    for branch in _in_order(branches):
        _draw(onto.add(_label(branch, nodes)), branch.children, nodes)


def _label(branch: Branch, nodes: Sequence[NodeInfo]) -> Text:
    line = Text().append_text(plain(branch.worker_id, "bold"))
    if (record := branch.record) is None:
        return line.append_text(plain("  its record was retired", "dim"))
    facts = [_time(record), f"{record.tokens_used:,} tokens"]
    if waiting := _waiting(branch, record, nodes):
        facts.append(f"waits {waiting}")
    if record.stopping:
        facts.append(f"stopping: {record.stopping}")
    line.append("  ").append_text(state_of(record))
    line.append_text(plain(f"  {'  '.join(fact for fact in facts if fact)}  "))
    return line.append_text(one_line(record.task, 60))


def _time(record: WorkerRecord) -> str:
    if record.report:
        return short_duration(record.report.duration_seconds)
    return age(record.started_at) if record.started_at else ""


def _sum(branches: Sequence[Branch]) -> str:
    """How many workers, in which states, and what they used."""
    records = [branch.record for branch in branches if branch.record]
    counts = Counter(record.state for record in records)
    states = ", ".join(f"{counts[s]:,} {s.lower()}" for s in WorkerState if s in counts)
    tokens = sum(record.tokens_used for record in records)
    return f"{len(branches):,} workers: {states or 'none is kept'}; {tokens:,} tokens"
