"""A worker's conversation in memory: stored parts on one side, pydantic-ai's messages on the other.

Whatever is written is read back at once through the same JSON, so the messages of a run that was
never interrupted and those of one that was restored after each step are equal, field by field.

    parts      request  answer(opened a)  result a (opened b)  result b    …
    messages   ModelRequest  ModelResponse(calls a, b)  ModelRequest(results a, b)  …

Results come in the order in which calls end, and are sent in the order of the calls. They belong to
the latest answer before them: ids of calls are made unique within a conversation when an answer
comes in, as some models count them anew in each answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pydantic_core
from pydantic import TypeAdapter
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ToolCallPart,
    ToolReturnPart,
)

from colony.conversation import Part
from colony.sizes import storable
from workers.agent.text import MAX_ANSWER_BYTES

_REQUEST = TypeAdapter(ModelRequest)
_RESPONSE = TypeAdapter(ModelResponse)
_RESULT = TypeAdapter(ToolReturnPart)


class Transcript:
    """What has been said, and which calls of the last answer have no result yet.

    `messages` is what the next question to the model holds, once `unresolved` is empty. `requests`
    counts the questions, those that got no answer too.
    """

    def __init__(self) -> None:
        self.messages: list[ModelMessage] = []
        self.responses: list[ModelResponse] = []
        self.calls: tuple[ToolCallPart, ...] = ()
        self.opened: set[str] = set()
        self.tokens = 0
        self.requests = 0
        self._results: dict[str, ToolReturnPart] = {}
        self._call_ids: set[str] = set()
        self._unwritten: list[bytes] = []  # JSON: smaller than decoded, held while the model thinks
        self._held_back: list[ModelRequest] = []

    @classmethod
    def restore(cls, parts: Sequence[Part]) -> Transcript:
        """The transcript that wrote these parts. `ValueError` names a part that cannot be read."""
        transcript = cls()
        for number, part in enumerate(parts):
            try:
                transcript._take(part)
            except (KeyError, ValueError) as error:
                raise ValueError(
                    f"part {number} of the conversation cannot be read: {error}. "
                    "Was it written by a newer Colony?"
                ) from error
        return transcript

    @property
    def unresolved(self) -> list[ToolCallPart]:
        """The calls of the last answer that have no result yet, in order."""
        return [call for call in self.calls if call.tool_call_id not in self._results]

    @property
    def results(self) -> list[ToolReturnPart]:
        """The results that calls of the last answer have so far."""
        return list(self._results.values())

    @property
    def last_answer(self) -> ModelResponse | None:
        """The last answer, if nothing has been said since but results of its calls."""
        return self.responses[-1] if self.calls or self._ends_with_answer else None

    @property
    def _ends_with_answer(self) -> bool:
        return bool(self.messages) and isinstance(self.messages[-1], ModelResponse)

    @property
    def instructions(self) -> str | None:
        """The system prompt the conversation began with."""
        requests = (m for m in self.messages if isinstance(m, ModelRequest))
        return next((r.instructions for r in requests if r.instructions is not None), None)

    def add_request(self, request: ModelRequest) -> None:
        """Say something to the model; it is written together with the answer to it."""
        dumped = _REQUEST.dump_json(request)
        self._unwritten.append(dumped)
        self._add_request(_REQUEST.validate_json(dumped))

    def take_unwritten(self) -> list[Part]:
        """The requests that have not been written yet; the caller now writes them."""
        dumped, self._unwritten = self._unwritten, []
        return [{"kind": "request", "message": json.loads(request)} for request in dumped]

    def read_back(self, response: ModelResponse) -> tuple[ModelResponse, dict[str, Any]]:
        """An answer as it will be stored (with unique call ids), and its JSON form. Raises `ValueError`
        for one of more than `MAX_ANSWER_BYTES`."""
        response = self._with_unique_ids(response)
        try:
            dumped = _RESPONSE.dump_json(response)
        except pydantic_core.PydanticSerializationError:  # lone surrogates in the model's text
            loose = _RESPONSE.dump_python(response, mode="json")
            dumped = storable(json.dumps(loose, ensure_ascii=False)).encode()
        if len(dumped) > MAX_ANSWER_BYTES:
            raise ValueError(
                f"the model's answer has {len(dumped)} bytes, and at most {MAX_ANSWER_BYTES} are taken"
            )
        return _RESPONSE.validate_json(dumped), json.loads(dumped)

    def add_answer(
        self, response: ModelResponse, message: dict[str, Any], opened: Iterable[str]
    ) -> list[Part]:
        """Take what `read_back` gave; returns the parts to write, unwritten requests first."""
        ids = list(opened)
        self._add_answer(response, ids)
        return [*self.take_unwritten(), {"kind": "answer", "message": message, "opened": ids}]

    def add_result(self, result: ToolReturnPart, opened: Iterable[str] = ()) -> Part:
        """Take the result of a call of the last answer; returns the part to write."""
        dumped, ids = _RESULT.dump_json(result), list(opened)
        self._add_result(_RESULT.validate_json(dumped), ids)
        return {
            "kind": "result",
            "tool_call_id": result.tool_call_id,
            "part": json.loads(dumped),
            "opened": ids,
        }

    def add_opened(self, opened: Iterable[str]) -> Part:
        """Calls of the last answer are about to begin; returns the part to write."""
        ids = list(opened)
        self.opened.update(ids)
        return {"kind": "opened", "opened": ids}

    def _take(self, part: Part) -> None:
        match part["kind"]:
            case "request":
                self._add_request(_REQUEST.validate_json(json.dumps(part["message"])))
            case "answer":
                response = _RESPONSE.validate_json(json.dumps(part["message"]))
                self._add_answer(response, part.get("opened", []))
            case "result":
                self._add_result(
                    _RESULT.validate_json(json.dumps(part["part"])), part.get("opened", [])
                )
            case "opened":
                self.opened.update(part["opened"])
            case unknown:
                raise ValueError(f"unknown kind {unknown!r}")

    def _add_request(self, request: ModelRequest) -> None:
        if self.unresolved:  # a word that came in between is said after the results
            self._held_back.append(request)
        else:
            self.calls = ()
            self.messages.append(request)

    def _add_answer(self, response: ModelResponse, opened: Iterable[str]) -> None:
        self.messages.append(response)
        self.responses.append(response)
        self.tokens += response.usage.total_tokens
        self.calls = tuple(response.tool_calls)
        self.opened = set(opened)
        self._results = {}
        self._call_ids.update(call.tool_call_id for call in self.calls)

    def _add_result(self, result: ToolReturnPart, opened: Iterable[str]) -> None:
        self._results[result.tool_call_id] = result
        self.opened.update(opened)
        if not self.unresolved:
            self._close()

    def _close(self) -> None:
        results = [self._results[call.tool_call_id] for call in self.calls]
        self.messages.append(ModelRequest(results, timestamp=max(r.timestamp for r in results)))
        held_back, self._held_back = self._held_back, []
        for request in held_back:
            self._add_request(request)

    def _with_unique_ids(self, response: ModelResponse) -> ModelResponse:
        """A new id for each call whose id is empty or was used before in this conversation."""
        ids = [call.tool_call_id for call in response.tool_calls]
        if all(ids) and len({*ids}) == len(ids) and self._call_ids.isdisjoint(ids):
            return response
        seen, parts = set(self._call_ids), list(response.parts)
        for index, part in enumerate(response.parts):
            if isinstance(part, ToolCallPart):
                call_id = part.tool_call_id
                if not call_id or call_id in seen:
                    call_id = f"{call_id or 'call'}-{len(self.responses)}-{index}"[-40:]
                    parts[index] = replace(part, tool_call_id=call_id)
                seen.add(call_id)
        return replace(response, parts=parts)
