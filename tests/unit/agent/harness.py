"""An agent in memory: a journal that keeps what was written, and a clock that tests set."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models import Model, ModelRequestParameters

from colony.conversation import Filed, Part, Step, dump_parts, load_parts
from colony.credentials import NO_ACCOUNTS, Accounts
from colony.definition import AgentSpec
from colony.models import WorkerRecord, WorkerState
from colony.testing_model import ScriptedModel, ScriptItem
from colony.tools import Tool, make_tool
from workers.agent.background import DELEGATE_TASK, delegating_tool
from workers.agent.loop import run_agent
from workers.agent.outcome import Outcome, Reported
from workers.agent.run import AgentRun
from workers.agent.spawning import RUN_PARALLEL_WORKERS, Offspring, spawning_tool
from workers.agent.threads import ToolThreads


class Crash(BaseException):
    """The node died here."""


@dataclass
class MemoryJournal:
    """Keeps steps and tellings. Dies after (or before) writing the step of a given number."""

    crash_after: int | None = None
    crash_before: int | None = None
    steps: list[Step] = field(default_factory=list)
    told: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    async def append(self, step: Step) -> None:
        if len(self.steps) + 1 == self.crash_before:
            raise Crash
        self.steps.append(step)
        if len(self.steps) == self.crash_after:
            raise Crash

    async def tell(self, event_type: str, data: Mapping[str, Any]) -> None:
        self.told.append((event_type, data))

    @property
    def parts(self) -> list[Part]:
        """What the store would give back: after a way through JSON."""
        return load_parts(dump_parts(part for step in self.steps for part in step.parts))

    @property
    def events(self) -> list[tuple[str, dict[str, Any]]]:
        return [event for step in self.steps for event in step.events]

    @property
    def filed(self) -> list[Filed]:
        return [step.filed for step in self.steps if step.filed is not None]

    def results(self) -> list[dict[str, Any]]:
        """The stored results of calls, in the order of writing."""
        return [part["part"] for part in self.parts if part["kind"] == "result"]


class Harness:
    """Runs one worker in memory; `journal` and `seen` are those of the last run.

    `seen` holds, for each request to the model, the messages it was sent.
    """

    def __init__(self, threads: ToolThreads) -> None:
        self.threads = threads
        self.journal = MemoryJournal()
        self.seen: list[list[ModelMessage]] = []
        self.slept: list[float] = []

    async def run(
        self,
        script: Sequence[ScriptItem] | Model,
        *functions: Callable[..., Any] | Tool,
        parts: Sequence[Part] = (),
        data: Mapping[str, Any] | None = None,
        remaining: Callable[[], timedelta | None] = lambda: None,
        soft_remaining: Callable[[], timedelta | None] = lambda: None,
        draining: Callable[[], bool] = lambda: False,
        journal: MemoryJournal | None = None,
        offspring: Offspring | None = None,
        accounts: Accounts = NO_ACCOUNTS,
        max_tool_result_bytes: int = 65_536,
        max_report_bytes: int = 262_144,
        **spec_options: Any,
    ) -> Outcome:
        self.journal = journal or MemoryJournal()
        model = script if isinstance(script, Model) else self.scripted(script)
        spec = AgentSpec(model=model, **spec_options)
        made = [f if isinstance(f, Tool) else make_tool(f) for f in functions]
        tools = {tool.name: tool for tool in made}
        if offspring is not None:
            tools[RUN_PARALLEL_WORKERS] = spawning_tool(offspring)
            tools[DELEGATE_TASK] = delegating_tool(offspring)
        return await run_agent(
            AgentRun(
                colony_id="ants",
                goal="Find food.",
                worker=record(data or {}),
                spec=spec,
                tools=tools,
                model=model,
                parts=parts,
                journal=self.journal,
                threads=self.threads,
                remaining=remaining,
                soft_remaining=soft_remaining,
                offspring=offspring,
                accounts=accounts,
                max_tool_result_bytes=max_tool_result_bytes,
                max_report_bytes=max_report_bytes,
                sleep=self._sleep,
                draining=draining,
            )
        )

    async def reported(
        self, script: Sequence[ScriptItem] | Model, *functions: Any, **options: Any
    ) -> Reported:
        outcome = await self.run(script, *functions, **options)
        assert isinstance(outcome, Reported), outcome
        return outcome

    def scripted(self, script: Sequence[ScriptItem], **options: Any) -> ScriptedModel:
        """A scripted model whose requests are seen here."""
        seen = self.seen = []

        class Watched(ScriptedModel):
            def prepare_messages(
                self,
                messages: list[ModelMessage],
                model_request_parameters: ModelRequestParameters | None = None,
            ) -> list[ModelMessage]:
                seen.append(list(messages))
                return messages

        return Watched(script, **options)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def record(data: Mapping[str, Any]) -> WorkerRecord:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    return WorkerRecord(
        worker_id="w1",
        colony_id="ants",
        state=WorkerState.RUNNING,
        agent="agent",
        task="Look north.",
        data=dict(data),
        stream_id="s1",
        root_id="w1",
        version="1",
        created_at=began,
        since=began,
    )


def countdown(*seconds: float) -> Callable[[], timedelta]:
    """A deadline's distance, one value per look at it; the last value stays."""
    values = itertools.chain(seconds, itertools.repeat(seconds[-1]))
    return lambda: timedelta(seconds=next(values))


def without_times(messages: Sequence[ModelMessage]) -> list[Any]:
    """Messages with what differs between two runs of the same script taken out."""
    shown: list[Any] = []
    for message in messages:
        for part in message.parts:
            fields = {
                k: v for k, v in vars(part).items() if k not in ("timestamp", "otel_metadata")
            }
            shown.append(
                (type(message).__name__, type(part).__name__, sorted(fields.items(), key=str))
            )
    return shown


def text_answer(text: str, finish_reason: Any = "stop") -> ModelResponse:
    return ModelResponse([TextPart(text)] if text else [], finish_reason=finish_reason)


def calls_answer(*calls: tuple[str, Any, str]) -> ModelResponse:
    """An answer with calls of (tool, args, id)."""
    return ModelResponse([ToolCallPart(name, args, call_id) for name, args, call_id in calls])
