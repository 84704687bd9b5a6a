"""One question to the model: its time limit, its retries, its text as it streams."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any, cast

from pydantic import BaseModel
from pydantic_ai.messages import InstructionPart, ModelMessage, ModelResponse
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from colony import tracing
from colony.metrics.names import FIRST_REQUEST_SECONDS, MODEL_REQUESTS
from colony.models import EventType
from colony.tools import Tool
from workers.agent.failures import Failure, failure_of
from workers.agent.report import REPORT_DEFINITION
from workers.agent.run import AgentRun
from workers.agent.streaming import stream_response
from workers.agent.transcript import Transcript

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
"""Between tries: 0.5 s, doubled each time up to 30 s, less up to half of it by chance; or exactly
what the provider asks for with Retry-After."""

Retry = tuple[str, dict[str, Any]]
"""A `node_retry` event."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and the events of the tries it took."""

    response: ModelResponse
    retries: list[Retry]

    @property
    def tries(self) -> int:
        """How often the model was asked."""
        return len(self.retries) + 1


@dataclass(frozen=True, slots=True)
class NoReply:
    """No answer is to be had: what to say of it. `out_of_time`: the worker's deadline cut it;
    `handed_over`: another node is to ask."""

    error: str
    retries: list[Retry]
    tries: int
    out_of_time: bool = False
    handed_over: bool = False


@lru_cache(maxsize=4096)
def _definition_of(name: str, description: str, arguments: type[BaseModel]) -> ToolDefinition:
    schema = arguments.model_json_schema()
    return ToolDefinition(name=name, description=description, parameters_json_schema=schema)


def request_parameters(
    tools: Mapping[str, Tool], instructions: str | None
) -> ModelRequestParameters:
    """What goes with every question of a run: its tools and its system prompt. Made once a run."""
    offered = [
        *(_definition_of(t.name, t.description, t.arguments) for t in tools.values()),
        REPORT_DEFINITION,
    ]
    return ModelRequestParameters(
        function_tools=offered,
        instruction_parts=[InstructionPart(instructions)] if instructions else [],
    )


async def ask(
    run: AgentRun, transcript: Transcript, parameters: ModelRequestParameters
) -> Reply | NoReply:
    """Ask the model, again where that may help, within `max_retries`, `max_requests` and deadline.

    Never raises for what a model does: an error is a `NoReply` with words for the report.
    """
    retries: list[Retry] = []
    if not transcript.requests and run.worker.epoch <= 1:
        FIRST_REQUEST_SECONDS.observe(run.age(), run.spec.name)
    turn = len(transcript.responses) + 1
    for attempt in count():
        await run.fence()
        if run.out_of_time:
            return NoReply(
                "the deadline passed before the model was asked", retries, attempt, out_of_time=True
            )
        if run.draining():
            return NoReply("the node drains", retries, attempt, handed_over=True)
        answer = await _try(run, transcript.messages, parameters, turn, attempt)
        if isinstance(answer, ModelResponse):
            return Reply(answer, retries)
        if run.out_of_time:
            return NoReply(
                "the deadline passed while the model was asked",
                retries,
                attempt + 1,
                out_of_time=True,
            )
        if not answer.retryable:
            return NoReply(answer.words, retries, attempt + 1)
        delay = _delay(attempt, answer)
        if (problem := _no_more(run, transcript.requests, attempt, delay)) is not None:
            return NoReply(f"{answer.words} ({problem})", retries, attempt + 1)
        retries.append(_event(run, turn, attempt, delay, answer))
        await run.sleep(delay)
    raise AssertionError("unreachable")


async def _try(
    run: AgentRun,
    messages: list[ModelMessage],
    parameters: ModelRequestParameters,
    turn: int,
    attempt: int,
) -> ModelResponse | Failure:
    limit = run.at_most(run.spec.request_timeout)
    scope = asyncio.timeout(limit)
    began, outcome = time.monotonic(), "cut"
    try:
        async with scope:
            with _span(run, attempt) as span:
                answer = await _request(run, messages, parameters, turn, attempt)
                if tracing.is_on():
                    span.set(_told(answer))
        outcome = "ok"
        return answer
    except Exception as error:  # noqa: BLE001 - the boundary of the model: the report tells it
        outcome = "timeout" if scope.expired() else "error"
        if scope.expired():
            who = f"{run.model.system} (model {run.model.model_name})"
            return Failure(f"{who}: no answer within {limit:g} s", retryable=True)
        return failure_of(error, run.spec, run.model)
    finally:
        MODEL_REQUESTS.observe(time.monotonic() - began, run.spec.name, run.model_name, outcome)


def _span(run: AgentRun, attempt: int) -> AbstractContextManager[tracing.NoSpan]:
    """What a trace tells of a question, by the GenAI conventions: no texts."""
    if not tracing.is_on():
        return tracing.OFF
    return tracing.span(
        f"chat {run.model.model_name}",
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": run.model.system,
            "gen_ai.request.model": run.model.model_name,
            "gen_ai.agent.name": run.spec.name,
            "gen_ai.conversation.id": run.worker.worker_id,
            "colony.attempt": attempt + 1,
        },
        kind="CLIENT",
    )


def _told(answer: ModelResponse) -> tracing.Attributes:
    ids = {"gen_ai.response.id": answer.provider_response_id}
    return {
        "gen_ai.response.model": answer.model_name or "",
        "gen_ai.response.finish_reasons": (answer.finish_reason or "stop",),
        "gen_ai.usage.input_tokens": answer.usage.input_tokens,
        "gen_ai.usage.output_tokens": answer.usage.output_tokens,
        **{name: value for name, value in ids.items() if value},
    }


async def _request(
    run: AgentRun,
    messages: list[ModelMessage],
    parameters: ModelRequestParameters,
    turn: int,
    attempt: int,
) -> ModelResponse:
    settings = cast(ModelSettings, dict(run.spec.model_settings))
    prepared = run.model.prepare_messages([*messages], parameters)
    if not run.spec.stream:
        return await run.model.request(prepared, settings, parameters)

    async def tell(text: str) -> None:
        delta = {"turn": turn, "attempt": attempt + 1, "text": text}
        await run.journal.tell(EventType.LLM_TEXT_DELTA, delta)

    return await stream_response(run.model.request_stream(prepared, settings, parameters), tell)


def _delay(attempt: int, failure: Failure) -> float:
    if failure.retry_after is not None:
        return failure.retry_after
    longest = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(attempt, 16))
    return longest * random.uniform(0.5, 1.0)


def _no_more(run: AgentRun, asked: int, attempt: int, delay: float) -> str | None:
    """Why there is no further try, if so."""
    if attempt >= run.spec.max_retries:
        return f"given up after {attempt + 1} tries"
    most = run.spec.max_requests
    if most is not None and asked + attempt + 1 >= most:
        return f"request limit ({most}) reached"
    left = run.seconds_left()
    if left is not None and delay >= left:
        return f"the next try, in {delay:.1f} s, would come after the worker's deadline"
    return None


def _event(run: AgentRun, turn: int, attempt: int, delay: float, failure: Failure) -> Retry:
    return EventType.NODE_RETRY.value, {
        "turn": turn,
        "attempt": attempt + 1,
        "of": run.spec.max_retries,
        "delay_seconds": round(delay, 3),
        "error": failure.words,
    }
