"""From a model string to a model, and errors that say what to do."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest
from pydantic_ai.models.test import TestModel

from colony.definition import AgentSpec
from colony.errors import ModelError
from colony.testing_model import ScriptedModel
from workers.agent.model import Models, resolve_model


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "DEEPSEEK_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_a_model_is_passed_through_and_test_is_known() -> None:
    model = ScriptedModel(["Hi."])
    assert resolve_model(AgentSpec(model)) is model
    assert Models().of(AgentSpec(model)) is model
    assert isinstance(resolve_model(AgentSpec("test")), TestModel)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            AgentSpec("openai:gpt-5-mini"),
            "set the environment variable OPENAI_API_KEY where the node",
        ),
        (AgentSpec("deepseek:chat"), "set the environment variable DEEPSEEK_API_KEY"),
        (
            AgentSpec("openai:gpt-5-mini", api_key_env="ANTS_KEY"),
            "ANTS_KEY, which api_key_env names",
        ),
        (AgentSpec("gpt-5-mini"), "Expected provider:model, such as openai:gpt-5-mini"),
        (AgentSpec("ants:a1"), "Unknown provider: ants. Expected provider:model"),
        (AgentSpec("bedrock:x", api_key_env="PATH"), "bedrock"),
    ],
)
def test_what_cannot_be_used_says_what_to_do(spec: AgentSpec, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve_model(spec)
    assert words in str(caught.value)
    assert f"agent 'agent', model {spec.model!r}" in str(caught.value)


def test_a_provider_that_is_not_installed_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without_anthropic(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "anthropic" or name.startswith("anthropic."):
            raise ImportError("no anthropic here")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_anthropic)
    monkeypatch.delitem(sys.modules, "pydantic_ai.providers.anthropic", raising=False)
    with pytest.raises(ModelError, match=r"pip install 'pydantic-ai-slim\[anthropic\]'"):
        resolve_model(AgentSpec("anthropic:claude-sonnet-4-5"))


async def test_models_of_a_loop_share_one_client_and_do_not_retry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    models = Models(max_connections=3000)
    one, two = (
        AgentSpec("openai:gpt-5-mini"),
        AgentSpec("openai:gpt-5", base_url="http://a.test/v1"),
    )
    first, second = models.of(one), models.of(two)
    assert models.of(AgentSpec("openai:gpt-5-mini", name="other")) is first
    assert type(first).__name__ == "OpenAIResponsesModel"
    assert type(second).__name__ == "OpenAIChatModel", "compatible servers speak the chat API"
    clients = [model.provider.client for model in (first, second) if model.provider]
    assert clients[0]._client is clients[1]._client
    assert [client.max_retries for client in clients] == [0, 0]
    assert str(clients[1].base_url) == "http://a.test/v1/"
    await models.aclose()
    assert clients[0]._client.is_closed


def test_a_compatible_server_needs_no_key() -> None:
    spec = AgentSpec("openai:llama", base_url="http://localhost:1234/v1")
    assert resolve_model(spec).model_name == "llama"
