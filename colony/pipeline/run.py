"""`Pipeline`: the stages of one colony, in order, over what comes in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from colony.errors import InvalidTask, PipelineIncomplete, PipelineRejected, StoreUnavailable
from colony.pipeline.stage import (
    Continue,
    Incoming,
    ProcessesBatches,
    Reject,
    Stage,
    Verdict,
)
from colony.tasks import Limits, check_task

log = logging.getLogger("colony.pipeline")

AT_ONCE = 64
"""Tasks of one batch that a stage is asked for side by side."""
STAGE_SECONDS = 30.0
"""How long a stage may take for one task, or for those of a batch that it takes together."""


class Pipeline:
    """Lets through, changes, or rejects; what is rejected is counted."""

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        limits: Limits,
        default_agent: str,
        count_rejected: Callable[[], Awaitable[None]],
    ) -> None:
        self._stages = stages
        self._limits = limits
        self._default_agent = default_agent
        self._count_rejected = count_rejected

    async def run(self, incoming: Incoming) -> Incoming:
        """What is to be accepted in its place. Raises `PipelineRejected`; `StoreUnavailable` when a
        stage needs a Redis that is away."""
        [out] = await self._run([incoming], [""])
        return out

    async def run_batch(self, incomings: Sequence[Incoming]) -> list[Incoming]:
        """All tasks of one batch, or `PipelineRejected` that names the index of one."""
        return await self._run(incomings, [f"tasks[{i}]: " for i in range(len(incomings))])

    async def _run(self, incomings: Sequence[Incoming], places: Sequence[str]) -> list[Incoming]:
        now = [replace(i, agent=i.agent or self._default_agent) for i in incomings]
        try:
            for stage in self._stages:
                verdicts = await _ask(stage, now)
                now = [self._obey(stage, *one) for one in zip(verdicts, now, places, strict=True)]
        except PipelineRejected as rejected:
            log.info("stage %r rejected a request by %r", rejected.stage, incomings[0].entry)
            await self._count()
            raise
        return now

    def _obey(self, stage: Stage, verdict: Verdict, incoming: Incoming, place: str) -> Incoming:
        if isinstance(verdict, Continue):
            return incoming
        if isinstance(verdict, Reject):
            raise PipelineRejected(stage.name, f"{place}{verdict.reason}", verdict.retry_after)
        changed = replace(
            incoming,
            task=incoming.task if verdict.task is None else verdict.task,
            data=incoming.data if verdict.data is None else verdict.data,
            agent=incoming.agent if verdict.agent is None else verdict.agent,
        )
        try:
            check_task(changed.task, changed.data, changed.agent, 1, self._limits)
        except InvalidTask as error:
            raise PipelineRejected(stage.name, f"{place}what it made of it: {error}") from error
        return changed

    async def _count(self) -> None:
        try:
            await self._count_rejected()
        except StoreUnavailable as error:
            log.warning("a rejection was not counted: %s", error)


async def _ask(stage: Stage, incomings: Sequence[Incoming]) -> Sequence[Verdict]:
    """One verdict for each. A stage that raises, hangs, or answers something else rejects."""
    try:
        verdicts = await _verdicts(stage, incomings)
        _check_verdicts(verdicts, len(incomings))
    except (StoreUnavailable, PipelineIncomplete):
        raise
    except Exception as error:
        log.exception("stage %r failed: what it was asked for is rejected", stage.name)
        what = f"stage {stage.name} failed: {type(error).__name__}"
        raise PipelineRejected(stage.name, what) from error
    return verdicts


def _check_verdicts(verdicts: Sequence[object], count: int) -> None:
    wrong = [type(v).__name__ for v in verdicts if not isinstance(v, Verdict)]
    if wrong or len(verdicts) != count:
        raise TypeError(
            f"expected {count} of Continue, Reject or Transform, got {len(verdicts)}, {wrong[:1]} among them"
        )


async def _verdicts(stage: Stage, incomings: Sequence[Incoming]) -> Sequence[Verdict]:
    if isinstance(stage, ProcessesBatches):
        async with asyncio.timeout(STAGE_SECONDS):
            return await stage.process_batch(incomings)
    verdicts: list[Verdict] = []
    for start in range(0, len(incomings), AT_ONCE):
        async with asyncio.timeout(STAGE_SECONDS):
            some = incomings[start : start + AT_ONCE]
            verdicts += await asyncio.gather(*(stage.process(one) for one in some))
    return verdicts
