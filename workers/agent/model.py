"""From an `AgentSpec` to a pydantic-ai `Model`: provider, key, address, one HTTP client.

Providers are imported when a model of theirs is first used (1 to 2 s each, so before work is
taken). Their SDKs' own retries are turned off: Colony retries within a worker's deadline.
"""

from __future__ import annotations

import inspect
import os
import re
from typing import TYPE_CHECKING, Any

from pydantic_ai.exceptions import UserError
from pydantic_ai.models import Model, create_async_httpx2_client, infer_model
from pydantic_ai.providers import Provider, infer_provider, infer_provider_class

from colony.definition import AgentSpec
from colony.errors import ModelError

if TYPE_CHECKING:
    import httpx2

SHARES_CLIENT = frozenset({"openai", "openai-chat", "openai-responses", "anthropic"})
"""Providers whose SDK takes the shared HTTP client; each other makes one of its own."""

ENVIRONMENT_VARIABLE = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")


class Models:
    """The models of one event loop: each made once, all on one HTTP client.

    `max_connections` of that client should be above the number of workers that run at once, or
    some would wait for a connection instead of for their model.
    """

    def __init__(self, max_connections: int = 2_000) -> None:
        self._max_connections = max_connections
        self._client: httpx2.AsyncClient | None = None
        self._models: dict[tuple[str, str | None, str | None], Model] = {}

    def of(self, spec: AgentSpec) -> Model:
        """The model of an agent. Raises `ModelError` that names what to install or to set."""
        if isinstance(spec.model, Model):
            return spec.model
        key = (spec.model, spec.base_url, spec.api_key_env)
        if key not in self._models:
            self._models[key] = resolve_model(spec, self._http_client())
        return self._models[key]

    async def aclose(self) -> None:
        """Close the HTTP client; the models made on it cannot be used any more."""
        self._models.clear()
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _http_client(self) -> httpx2.AsyncClient:
        if self._client is None:
            import httpx2  # noqa: PLC0415 - only where a provider is used

            limits = httpx2.Limits(
                max_connections=self._max_connections, max_keepalive_connections=200
            )
            self._client = create_async_httpx2_client(limits=limits)
        return self._client


def resolve_model(spec: AgentSpec, http_client: httpx2.AsyncClient | None = None) -> Model:
    """The model of an agent, ready to be asked; a `Model` is passed through as it is.

    Without `http_client` the provider makes its own. Raises `ModelError` for an unknown model, a
    provider that is not installed, or a key that is not set.
    """
    if isinstance(spec.model, Model):
        return spec.model
    try:
        return infer_model(_name_of(spec), lambda name: _provider(name, spec, http_client))
    except ImportError as error:
        provider = spec.model.partition(":")[0]
        raise ModelError(
            f"{_whose(spec)}: the package of provider {provider!r} is not installed on this node. "
            f"Install it: pip install 'pydantic-ai-slim[{provider}]' ({error})"
        ) from error
    except (UserError, ValueError) as error:
        raise ModelError(f"{_whose(spec)}: {_remedy(spec, str(error))}") from error


def _name_of(spec: AgentSpec) -> str:
    """What pydantic-ai is to make: compatible servers speak OpenAI's older chat API."""
    name = str(spec.model)
    if spec.base_url is not None and name.startswith("openai:"):
        return name.replace("openai:", "openai-chat:", 1)
    return name


def _provider(name: str, spec: AgentSpec, http_client: httpx2.AsyncClient | None) -> Provider[Any]:
    options = _provider_options(name, spec, http_client)
    provider = infer_provider_class(name)(**options) if options else infer_provider(name)
    if hasattr(provider.client, "max_retries"):
        provider.client.max_retries = 0
    return provider


def _provider_options(
    name: str, spec: AgentSpec, http_client: httpx2.AsyncClient | None
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if spec.base_url is not None:
        options["base_url"] = spec.base_url
    if spec.api_key_env is not None:
        options["api_key"] = _key(spec, spec.api_key_env)
    if http_client is not None and name in SHARES_CLIENT:
        options["http_client"] = http_client
    if options:
        taken = inspect.signature(infer_provider_class(name)).parameters
        if refused := [option for option in options if option not in taken]:
            raise ModelError(
                f"{_whose(spec)}: provider {name!r} takes no {' and no '.join(refused)}; set it "
                "with the provider's own environment variables, or pass a Model object"
            )
    return options


def _key(spec: AgentSpec, variable: str) -> str:
    value = os.environ.get(variable, "")
    if not value:
        raise ModelError(
            f"{_whose(spec)}: the environment variable {variable}, which api_key_env names, is not "
            "set on this node. Set it where the node starts"
        )
    return value


def _remedy(spec: AgentSpec, problem: str) -> str:
    if variable := ENVIRONMENT_VARIABLE.search(problem):
        return (
            f"no key: set the environment variable {variable.group()} where the node starts, or "
            f"name another with AgentSpec(api_key_env=…)"
        )
    return (
        f"{problem}. Expected provider:model, such as openai:gpt-5-mini or "
        "anthropic:claude-sonnet-4-5, or 'test'"
    )


def _whose(spec: AgentSpec) -> str:
    return f"agent {spec.name!r}, model {spec.model!r}"
