"""Asking the model: retries, failures, streams. What the provider does, not what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import pytest
from pydantic_ai.exceptions import ModelConnectionError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.usage import RequestUsage

from colony.definition import AgentSpec
from colony.models import ReportStatus
from colony.testing_model import Call, HttpError, ScriptItem, report
from tests.unit.agent.harness import Harness, countdown
from workers.agent.cost import cost_of
from workers.agent.model import resolve_model
from workers.agent.outcome import Reported

FAILED = ReportStatus.FAILED
KEY = "sk-proj-1234567890abcdef"


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
async def test_what_may_pass_is_tried_again(agent: Harness, status: int) -> None:
    outcome = await agent.reported([HttpError(status), HttpError(status), "Done."])
    assert outcome.summary == "Done."
    assert len(agent.seen) == 3
    (step,) = agent.journal.steps
    retries = [data for name, data in step.events if name == "node_retry"]
    assert [(r["turn"], r["attempt"], r["of"]) for r in retries] == [(1, 1, 5), (1, 2, 5)]
    assert f"HTTP {status}" in retries[0]["error"]
    assert [round(slept, 3) for slept in agent.slept] == [r["delay_seconds"] for r in retries]
    assert 0.25 <= agent.slept[0] <= 0.5
    assert 0.5 <= agent.slept[1] <= 1


@pytest.mark.parametrize(
    "error", [ConnectionResetError("reset"), TimeoutError(), ModelConnectionError("m", "no route")]
)
async def test_connection_errors_and_time_outs_are_tried_again(
    agent: Harness, error: Exception
) -> None:
    assert (await agent.reported([error, "Done."])).summary == "Done."


async def test_tries_end_with_the_words_of_the_provider(agent: Harness) -> None:
    outcome = await agent.reported([HttpError(503, message="we are full")], max_retries=2)
    assert outcome.status is FAILED
    expected = "scripted: HTTP 503 for model scripted: we are full (given up after 3 tries)"
    assert outcome.error == expected == outcome.summary
    (step,) = agent.journal.steps
    assert [name for name, _ in step.events] == ["node_retry", "node_retry"]
    assert [part["kind"] for part in step.parts] == ["request"], "what was asked stays readable"
    assert (step.requests, step.tokens) == (3, 0), "failed questions are counted as well"


async def test_retry_after_is_honoured_as_seconds_and_as_a_date(agent: Harness) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=8), usegmt=True)
    script: list[ScriptItem] = [
        HttpError(429, {"Retry-After": "7"}),
        HttpError(429, {"retry-after": date}),
        "Done.",
    ]
    assert (await agent.reported(script)).summary == "Done."
    assert agent.slept[0] == 7
    assert 6 < agent.slept[1] <= 8


async def test_no_try_that_would_come_after_the_deadline(agent: Harness) -> None:
    script: list[ScriptItem] = [HttpError(429, {"retry-after": "60"}, "slow down"), "never"]
    outcome = await agent.reported(script, remaining=countdown(30))
    assert outcome.status is FAILED
    assert "slow down (the next try, in 60.0 s, would come after the worker's deadline)" in (
        outcome.error or ""
    )
    assert agent.slept == []


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_a_bad_request_is_not_tried_again(agent: Harness, status: int) -> None:
    outcome = await agent.reported([HttpError(status, message="too many tools"), "never"])
    assert (outcome.status, len(agent.seen)) == (FAILED, 1)
    assert outcome.error == f"scripted: HTTP {status} for model scripted: too many tools"


async def test_pydantic_ais_test_model_runs(agent: Harness) -> None:
    def look(at: str) -> str:
        """Look."""
        return at

    assert (await agent.reported(TestModel(), look)).status in ReportStatus


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_names_its_setting(agent: Harness, status: int) -> None:
    script: list[ScriptItem] = [HttpError(status, message=f"bad key {KEY}"), "never"]
    outcome = await agent.reported(script, api_key_env="ANTS_KEY")
    assert len(agent.seen) == 1
    assert outcome.error is not None
    assert "The key was refused: check ANTS_KEY on the nodes" in outcome.error
    assert KEY not in outcome.error


async def test_any_other_error_of_the_model_is_reported(agent: Harness) -> None:
    outcome = await agent.reported([ValueError("no such colour"), "never"])
    assert outcome == Reported(FAILED, outcome.summary, {}, "ValueError: no such colour")
    assert len(agent.seen) == 1


async def test_a_request_has_its_own_time_limit(agent: Harness) -> None:
    model = agent.scripted(["never"], latency=60)
    outcome = await agent.reported(model, request_timeout=timedelta(seconds=0.01), max_retries=1)
    assert (
        outcome.error
        == "scripted (model scripted): no answer within 0.01 s (given up after 2 tries)"
    )


async def test_a_stream_is_told_in_few_pieces(agent: Harness) -> None:
    text = " ".join(f"word{n}" for n in range(500))
    outcome = await agent.reported(
        [[text, Call("report_to_parent", report("success", text).args)]], stream=True
    )
    assert outcome.summary == text
    deltas = [data for name, data in agent.journal.told if name == "llm_text_delta"]
    assert "".join(delta["text"] for delta in deltas) == text
    assert len(deltas) <= 3
    assert (deltas[0]["turn"], deltas[0]["attempt"]) == (1, 1)


async def test_a_function_model_is_asked_with_tools_and_instructions(agent: Harness) -> None:
    infos: list[AgentInfo] = []

    def look(at: str) -> str:
        """Look.

        Args:
            at: Where to.
        """
        return at

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        infos.append(info)
        if len(messages) == 1:
            return ModelResponse([])
        return ModelResponse([TextPart("Done.")])

    await agent.run(FunctionModel(answer), look, instructions="Be brief.")
    for info in infos:
        assert [tool.name for tool in info.function_tools] == ["look", "report_to_parent"]
        assert "Be brief." in (info.instructions or "")
    properties = infos[0].function_tools[0].parameters_json_schema["properties"]
    assert properties["at"]["description"] == "Where to."


def test_costs_are_known_or_none() -> None:
    usage = RequestUsage(input_tokens=1000, output_tokens=100)
    known = ModelResponse([], usage=usage, model_name="gpt-5-mini", provider_name="openai")
    assert 0 < (cost_of(known) or 0) < 0.01
    unknown = ModelResponse([], usage=usage, model_name="ant-1", provider_name="ants")
    assert cost_of(unknown) is None is cost_of(unknown)
    assert cost_of(ModelResponse([])) is None


Handler = Callable[[httpx2.Request], httpx2.Response]


def openai_model(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A real OpenAI client whose server is `handler`."""
    monkeypatch.setenv("ANTS_KEY", KEY)
    spec = AgentSpec("openai:gpt-5-mini", base_url="http://ants.test/v1", api_key_env="ANTS_KEY")
    client = httpx2.AsyncClient(transport=httpx2.MockTransport(handler))
    return resolve_model(spec, client)


def completion(message: dict[str, Any], finish_reason: str = "stop") -> httpx2.Response:
    choice = {
        "index": 0,
        "message": {"role": "assistant", **message},
        "finish_reason": finish_reason,
    }
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "gpt-5-mini"}
    return httpx2.Response(200, json={**body, "choices": [choice], "usage": usage})


async def test_over_openais_wire(agent: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[dict[str, Any]] = []

    def look(at: str) -> str:
        """Look."""
        return f"seen {at}"

    def serve(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        bodies.append(json.loads(request.content))
        if len(bodies) == 1:
            return httpx2.Response(500, json={"error": {"message": "oops"}})
        if len(bodies) == 2:
            function = {"name": "look", "arguments": '{"at": "north"}'}
            call = {"id": "a", "type": "function", "function": function}
            return completion({"content": None, "tool_calls": [call]}, "tool_calls")
        return completion({"content": "Done."})

    outcome = await agent.reported(
        openai_model(serve, monkeypatch),
        look,
        instructions="Be brief.",
        model_settings={"seed": 7},
    )
    assert outcome.summary == "Done."
    assert len(bodies) == 3, "the SDK did not retry by itself"
    assert len(agent.slept) == 1
    system, user, assistant, tool = bodies[2]["messages"]
    assert "Be brief." in str(system["content"])
    assert (user["content"], tool["content"]) == ("Look north.", "seen north")
    assert assistant["tool_calls"][0]["id"] == tool["tool_call_id"] == "a"
    assert [t["function"]["name"] for t in bodies[2]["tools"]] == ["look", "report_to_parent"]
    assert bodies[2]["seed"] == 7
    assert sum(step.tokens for step in agent.journal.steps) == 30


async def test_a_refused_key_over_openais_wire(
    agent: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(401, json={"error": {"message": f"Incorrect API key: {KEY}."}})

    outcome = await agent.reported(openai_model(serve, monkeypatch))
    assert outcome.error is not None
    assert outcome.error.startswith(
        "openai: HTTP 401 for model gpt-5-mini: Incorrect API key: [key]"
    )
    assert "OPENAI_API_KEY" in outcome.error
    assert KEY not in outcome.error


async def test_a_lost_connection_over_openais_wire(
    agent: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    outcome = await agent.reported(openai_model(serve, monkeypatch), max_retries=2)
    assert "given up after 3 tries" in (outcome.error or "")
    assert "openai (model gpt-5-mini)" in (outcome.error or "")
