"""A slice: one bounded stretch of a worker's life, from a claim to its release.

    doorbell ─▶ claim ─▶ run (restore ▸ model ⇄ tools, a checkpoint each) ─▶ release
                  │                                                            settle | park | give back
                  └─ refused: somebody else runs it, it has ended, it waits: nothing to do

Every step is one script of the store. Whoever lost the claim (`StaleToken`) writes nothing more.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta

from colony import logs, tracing
from colony.conversation import Filed
from colony.definition import AgentSpec
from colony.errors import ModelError, StaleToken
from colony.metrics.instruments import OTHER
from colony.metrics.names import SLICE_SECONDS, SLICES
from colony.models import ReportStatus, WorkerRecord, WorkerState
from colony.store import Claim, Refusal, Ring
from colony.tools import Tool
from workers.agent.background import DELEGATE_TASK, delegating_tool
from workers.agent.loop import run_agent
from workers.agent.outcome import HandedOver, Outcome, Parked, Reported, Waiting
from workers.agent.run import AgentRun
from workers.agent.spawning import RUN_PARALLEL_WORKERS, Offspring, spawning_tool
from workers.host import Host
from workers.journal import StoreJournal
from workers.loop import Cut, cut_of
from workers.offspring import SliceOffspring
from workers.running import RUNNING, Running
from workers.showing import SHOWING, Progress

log = logging.getLogger("colony.slice")

CUT_REPORTS = {
    Cut.SOFT_TIME_LIMIT: Filed(
        ReportStatus.TIMEOUT, "Worker exceeded its soft time limit.", error="timeout"
    ),
    Cut.HARD_TIME_LIMIT: Filed(
        ReportStatus.TIMEOUT, "Worker exceeded its hard time limit.", error="timeout"
    ),
    Cut.TERMINATE: Filed(ReportStatus.STOPPED, "Worker was terminated.", error="stopped"),
}

HANDED_OVER = "handed over"


async def run_slice(host: Host, worker_id: str) -> bool:
    """Answer one doorbell. True when the worker is terminal now: the doorbell has done its work."""
    if host.context.drain.begun:
        return await _pass_on(host, worker_id)
    claim = await _claim(host, worker_id)
    if not isinstance(claim, Claim):
        return await _refused(host, worker_id, claim)
    known = claim.record.agent in host.context.colony.agents
    progress = Progress.of(claim.record)
    running = RUNNING[worker_id] = Running(
        worker_id, claim.token, progress, agent_name=claim.record.agent if known else OTHER
    )
    SHOWING.step(host.context, progress)
    try:
        with (
            logs.bound(worker=worker_id, epoch=claim.record.epoch),
            tracing.inherited(claim.record.traceparent),
            _span(host, claim.record) as span,
        ):
            ended = await _run_and_release(host, claim, running)
            span.set({"colony.outcome": running.outcome})
            return ended
    except StaleToken as error:
        log.warning("worker %s was rescued or ended elsewhere, dropped here: %s", worker_id, error)
        await _show_end(host, worker_id)
        return False
    finally:
        if RUNNING.get(worker_id) is running:
            del RUNNING[worker_id]
        SLICES.add(running.agent_name, running.outcome)
        SLICE_SECONDS.observe(time.monotonic() - running.claimed_at, running.agent_name)


def _span(host: Host, record: WorkerRecord) -> AbstractContextManager[tracing.NoSpan]:
    """What a trace tells of a slice: below who spawned the worker, each time."""
    if not tracing.is_on():
        return tracing.OFF
    return tracing.span(
        f"invoke_agent {record.agent}",
        {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": record.agent,
            "gen_ai.agent.id": record.worker_id,
            "gen_ai.conversation.id": record.worker_id,
            "colony.id": record.colony_id,
            "colony.epoch": record.epoch,
            "colony.node": host.context.node,
        },
        kind="CONSUMER",
        parent=record.traceparent or tracing.traceparent_of(record.root_id),
    )


async def _claim(host: Host, worker_id: str) -> Claim | Refusal | str:
    return await host.store.claim(
        worker_id,
        node=host.context.node,
        token=secrets.token_hex(8),
        version=host.context.colony.version,
    )


async def _pass_on(host: Host, worker_id: str) -> bool:
    """This node drains: ring for another, if there is anything to do."""
    record = await host.store.get(worker_id)
    if record is None:
        return await _refused(host, worker_id, Refusal.UNKNOWN)
    if record.state is WorkerState.PENDING:
        place = record.batch_id or "", record.batch_index or 0
        await host.ring([Ring(worker_id, record.agent, *place)])
    return record.state.terminal


async def _refused(host: Host, worker_id: str, why: Refusal | str) -> bool:
    if why is Refusal.DRAINING:
        return await _pass_on(host, worker_id)
    if why is Refusal.UNKNOWN:
        await host.store.reject(
            "no worker has this id (forgotten by retention, or not ours)", worker_id
        )
    elif why is Refusal.LEASE:
        log.warning("worker %s is not claimed: this node's lease is gone", worker_id)
    elif why is Refusal.VERSION:
        log.warning("worker %s needs another version of the definition than this node's", worker_id)
    elif WorkerState(why).terminal:
        await _show_end(host, worker_id)
        return True
    return False


async def _show_end(host: Host, worker_id: str) -> None:
    """People are shown the end of a worker that another has ended, or a stop."""
    record = await host.store.get(worker_id)
    if record is not None and record.state.terminal:
        SHOWING.ended(host.context, record)


async def _run_and_release(host: Host, claim: Claim, running: Running) -> bool:
    """Run the agent, and write what came of it. A cut that comes meanwhile decides what is written."""
    try:
        running.agent = asyncio.create_task(_run(host, claim, running), name=running.worker_id)
        outcome = await running.agent
    except asyncio.CancelledError as error:
        return await _release_cut(host, running, cut_of(error))
    except StaleToken:
        raise
    except Exception as error:
        log.exception("worker %s crashed", running.worker_id)
        outcome = Reported(
            ReportStatus.FAILED, f"Worker crashed: {error}", {}, f"{type(error).__name__}: {error}"
        )
    return await _release(host, running, outcome)


async def _run(host: Host, claim: Claim, running: Running) -> Outcome:
    colony, record = host.context.colony, claim.record
    spec = colony.agents.get(record.agent)
    if spec is None:
        known = ", ".join(sorted(colony.agents))
        return _failed(f"agent {record.agent!r} is not in this definition; it has: {known}")
    try:
        model = host.model_of(spec)
    except ModelError as error:
        return _failed(str(error))
    offspring = _offspring(host, claim, spec)
    return await run_agent(
        AgentRun(
            colony_id=colony.name,
            goal=colony.goal,
            worker=record,
            spec=spec,
            tools=_tools(host, spec, offspring),
            model=model,
            parts=claim.parts,
            journal=StoreJournal(host, claim, running),
            threads=host.threads,
            age=_counted_on(claim.age),
            remaining=_countdown(claim.remaining),
            soft_remaining=_countdown(claim.soft_remaining),
            offspring=offspring,
            accounts=host.keyring.accounts(spec.accounts),
            fence=lambda: host.still_owns(running),
            draining=host.context.drain.has_begun,
            sleep=host.context.drain.sleep,
            max_tool_result_bytes=colony.config.max_tool_result_bytes,
            max_report_bytes=colony.config.max_report_bytes,
        )
    )


def _offspring(host: Host, claim: Claim, spec: AgentSpec) -> SliceOffspring | None:
    """None for an agent that does not spawn, and at the deepest level of a tree."""
    deepest = claim.record.depth + 1 >= host.context.colony.config.max_depth
    return SliceOffspring(host, claim, spec) if spec.spawns and not deepest else None


def _tools(host: Host, spec: AgentSpec, offspring: Offspring | None) -> dict[str, Tool]:
    """What the agent is offered."""
    tools = host.context.colony.tools_of(spec)
    if offspring is not None:
        tools[RUN_PARALLEL_WORKERS] = spawning_tool(offspring)
        tools[DELEGATE_TASK] = delegating_tool(offspring)
    return tools


async def _release(host: Host, running: Running, outcome: Outcome) -> bool:
    """done → settle, waiting → park (unless it was told to stop meanwhile), drained → hand over."""
    if isinstance(outcome, HandedOver):
        return await _give_back(host, running, HANDED_OVER)
    if isinstance(outcome, Parked | Waiting):
        return await _park(host, running, outcome)
    filed = Filed(outcome.status, outcome.summary, outcome.data, outcome.error)
    await _settle(host, running, filed)
    if running.progress is not None:
        SHOWING.end(host.context, running.progress, filed.status, filed.error)
    return True


async def _settle(host: Host, running: Running, filed: Filed) -> None:
    """The end; the last member of a batch joins it, and rings for the parent that wakes."""
    await host.still_owns(running)
    settled = await host.store.settle(running.worker_id, running.token, filed)
    running.outcome = "ended"
    if settled.joinable:
        await host.join(settled.joinable)
    await host.ring(settled.rings)


async def _park(host: Host, running: Running, outcome: Parked | Waiting) -> bool:
    waits_for = outcome.duration if isinstance(outcome, Parked) else outcome.batch_ids
    after = host.context.settings.ring_again_after
    await host.still_owns(running)
    parked = await host.store.park(
        running.worker_id, running.token, waits_for, ring_again_after=after
    )
    if isinstance(parked, ReportStatus):
        return await _give_back(host, running, f"told to stop: {parked}")
    running.outcome = "parked"
    if running.progress is not None:
        running.progress.waits("its time" if isinstance(outcome, Parked) else "children")
        SHOWING.step(host.context, running.progress)
    await host.ring(parked.rings)
    return False


async def _release_cut(host: Host, running: Running, cut: Cut | None) -> bool:
    """told → the store settles it as it was told; a limit → settle; anything else → hand over."""
    if running.lost:
        log.warning("worker %s was rescued elsewhere and is dropped here", running.worker_id)
        return False
    if not running.told and cut in CUT_REPORTS:
        await _settle(host, running, CUT_REPORTS[cut])
        await _show_end(host, running.worker_id)
        return True
    return await _give_back(host, running, "told to stop" if running.told else HANDED_OVER)


async def _give_back(host: Host, running: Running, why: str) -> bool:
    """To the store, which settles it if it was told to stop; else somebody is rung for it."""
    ring_again_after = host.context.settings.ring_again_after
    await host.still_owns(running)
    ring = await host.store.give_back(
        running.worker_id, running.token, why, counted=False, ring_again_after=ring_again_after
    )
    running.outcome = "stopped" if ring is None else "handed_over"
    if ring is None:
        await _show_end(host, running.worker_id)
        return True
    await host.ring([ring])
    return False


def _failed(error: str) -> Reported:
    return Reported(ReportStatus.FAILED, "Worker could not be run.", {}, error)


def _counted_on(age: timedelta) -> Callable[[], float]:
    since = time.monotonic() - age.total_seconds()
    return lambda: time.monotonic() - since


def _countdown(remaining: timedelta | None) -> Callable[[], timedelta | None]:
    """The time to the deadline: what Redis' clock said at the claim, counted down by this node's."""
    if remaining is None:
        return lambda: None
    until = time.monotonic() + remaining.total_seconds()
    return lambda: timedelta(seconds=until - time.monotonic())
