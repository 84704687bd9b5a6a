"""A model that follows a script: for tests of your agents, without a key, a network or a cost.

    model = ScriptedModel([
        Call("read_file", {"path": "notes.md"}),
        report("success", "Read it.", {"lines": 12}),
    ])
    colony = Colony("survey", agent=AgentSpec(model=model))

It keeps no state: which item comes next follows from how many answers the messages hold, so that a
worker that goes on in another process gets the next item there, not the first one again.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ModelResponseStreamEvent,
    TextPart,
    ToolCallPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext
from pydantic_ai.usage import RequestUsage

WORDS = re.compile(r"\s*\S+\s*")


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call. `args` may be a string, to send what is not JSON; `id` chooses the id."""

    name: str
    args: Mapping[str, Any] | str = field(default_factory=dict)
    id: str | None = None


@dataclass(frozen=True, slots=True)
class HttpError:
    """The provider answers with this status. `headers` may hold ``retry-after``."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "scripted failure"


Item = str | Call | Sequence[Call | str] | ModelResponse | HttpError | Exception
"""One answer of a script: text; a call, or several with text beside them; or a failure."""

ScriptItem = Item | Callable[[list[ModelMessage], ModelRequestParameters], Item]
"""An answer, or a function of the messages and the offered tools that makes one."""


class ScriptEnded(Exception):
    """The model was asked more often than its script has answers."""


def report(status: str, summary: str, data: Any = None) -> Call:
    """The call that ends a worker with this report."""
    args = {"status": status, "summary": summary}
    return Call("report_to_parent", args if data is None else {**args, "data": data})


class ScriptedModel(Model[None]):
    """Answers with the items of `script`, one after the other.

    A failure (`HttpError` or an exception) is raised once in each conversation and process, then
    the next item is due; as the last item it is raised whenever it is reached. Asked beyond its
    script the model raises `ScriptEnded`.

    `latency` is how long each answer takes, in seconds. `record` names a file to which each request
    appends one JSON line when it begins, ``{"answers": how many the messages held, "task": first user
    text, "at": time.time()}``,
    also from several processes at once. Each answer counts `input_tokens` and `output_tokens`.
    """

    def __init__(
        self,
        script: Sequence[ScriptItem],
        *,
        latency: float = 0.0,
        record: Path | str | None = None,
        input_tokens: int = 10,
        output_tokens: int = 5,
        name: str = "scripted",
    ) -> None:
        super().__init__()
        if isinstance(script, str) or not script:
            raise ValueError(f"script: expected a list with at least one answer, got {script!r}")
        self._plan = _plan(script)
        self._latency = latency
        self._record = record
        self._usage = (input_tokens, output_tokens)
        self._name = name
        self._failed: Counter[tuple[datetime | None, int]] = Counter()

    @property
    def model_name(self) -> str:
        """The name that answers carry."""
        return self._name

    @property
    def system(self) -> str:
        """The provider's name."""
        return "scripted"

    def prepare_messages(
        self,
        messages: list[ModelMessage],
        model_request_parameters: ModelRequestParameters | None = None,
    ) -> list[ModelMessage]:
        """The messages as they are: there is no wire to prepare them for."""
        return messages

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """The answer that is due."""
        answers = sum(isinstance(message, ModelResponse) for message in messages)
        if self._record is not None:
            line = {"answers": answers, "task": _first_user_text(messages), "at": time.time()}
            _append_line(self._record, line)
        await asyncio.sleep(self._latency)
        item = self._due(messages, answers)
        if callable(item):
            item = item(messages, model_request_parameters)
        return self._response(item, answers)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """The answer that is due, its text word by word."""
        response = await self.request(messages, model_settings, model_request_parameters)
        yield _ScriptedStream(model_request_parameters, response)

    def _due(self, messages: list[ModelMessage], answers: int) -> ScriptItem:
        if answers >= len(self._plan):
            raise ScriptEnded(
                f"the script of model {self._name!r} has {len(self._plan)} answers; answer "
                f"{answers + 1} was asked for"
            )
        failures, item = self._plan[answers]
        if failures:
            conversation = (_began_at(messages), answers)
            self._failed[conversation] += 1
            if self._failed[conversation] <= len(failures):
                return failures[self._failed[conversation] - 1]
        return item

    def _response(self, item: Item, answers: int) -> ModelResponse:
        if isinstance(item, HttpError):
            body = {"error": {"message": item.message}}
            raise ModelHTTPError(item.status, self._name, body, headers=item.headers)
        if isinstance(item, Exception):
            raise item.with_traceback(None)  # else its trace, with all locals, grows each time
        if isinstance(item, ModelResponse):
            return item
        said = [item] if isinstance(item, str | Call) else item
        parts = [
            TextPart(part) if isinstance(part, str) else _call_part(part, answers, index)
            for index, part in enumerate(said)
            if part != ""
        ]
        called = any(isinstance(part, ToolCallPart) for part in parts)
        return ModelResponse(
            parts,
            usage=RequestUsage(input_tokens=self._usage[0], output_tokens=self._usage[1]),
            model_name=self._name,
            provider_name=self.system,
            finish_reason="tool_call" if called else "stop",
        )


Failures = list[HttpError | Exception]


def _plan(script: Sequence[ScriptItem]) -> list[tuple[Failures, ScriptItem]]:
    """Each answer with the failures that come before it."""
    plan: list[tuple[Failures, ScriptItem]] = []
    failures: Failures = []
    for number, item in enumerate(script, 1):
        if isinstance(item, HttpError | Exception) and number < len(script):
            failures.append(item)
        else:
            plan.append((failures, item))
            failures = []
    return plan


def _call_part(call: Call, answers: int, index: int) -> ToolCallPart:
    args = call.args if isinstance(call.args, str) else dict(call.args)
    call_id = f"call_{answers}_{index}" if call.id is None else call.id
    return ToolCallPart(call.name, args, call_id)


def _began_at(messages: list[ModelMessage]) -> datetime | None:
    return messages[0].timestamp if messages else None


def _first_user_text(messages: list[ModelMessage]) -> str:
    for message in messages:
        if isinstance(message, ModelRequest):
            for part in message.parts:
                if isinstance(part, UserPromptPart):
                    return part.content if isinstance(part.content, str) else str(part.content)
    return ""


def _append_line(path: Path | str, line: Mapping[str, Any]) -> None:
    """One write of one line: lines of several processes do not mix."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")
    finally:
        os.close(file)


class _ScriptedStream(StreamedResponse):
    """A whole answer, told as a stream."""

    def __init__(self, parameters: ModelRequestParameters, response: ModelResponse) -> None:
        super().__init__(parameters)
        self._response = response
        self._usage = response.usage
        self._began = datetime.now(UTC)
        self.finish_reason = response.finish_reason

    async def _get_event_iterator(self) -> AsyncIterator[ModelResponseStreamEvent]:
        for index, part in enumerate(self._response.parts):
            if isinstance(part, TextPart):
                for word in WORDS.findall(part.content):
                    for event in self._parts_manager.handle_text_delta(
                        vendor_part_id=index, content=word
                    ):
                        yield event
            elif isinstance(part, ToolCallPart):
                yield self._parts_manager.handle_tool_call_part(
                    vendor_part_id=index,
                    tool_name=part.tool_name,
                    args=part.args if isinstance(part.args, str) else part.args_as_dict(),
                    tool_call_id=part.tool_call_id,
                )

    async def close_stream(self) -> None:
        """Nothing is open."""

    @property
    def model_name(self) -> str:
        return self._response.model_name or "scripted"

    @property
    def provider_name(self) -> str:
        return "scripted"

    @property
    def provider_url(self) -> None:
        return None

    @property
    def timestamp(self) -> datetime:
        return self._began
