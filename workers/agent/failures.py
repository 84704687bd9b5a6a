"""What went wrong between us and a model: whether to try again, and words for the report.

The words name the provider, the status, what the provider said and, where a key was refused, the
setting that holds it. They never hold the key itself.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelHTTPError,
    ModelQuotaExceededError,
    ModelRequestTimeout,
)
from pydantic_ai.models import Model

from colony.definition import AgentSpec
from colony.sizes import storable
from workers.agent.text import cut, words_of

RETRYABLE_STATUS = frozenset({408, 409, 425, 429})
"""Beside every 5xx: answers that may be different next time."""

AUTHENTICATION_STATUS = frozenset({401, 403})

WORDS_BYTES = 2_000
"""How much of what a provider said goes into an error."""

KEY_LIKE = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai)[-_][\w*.-]{12,}|\bAIza[\w-]{10,}|\bBearer\s+\S+", re.I
)


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed request to a model. `retry_after`: seconds, where the provider named a time."""

    words: str
    retryable: bool
    retry_after: float | None = None


def failure_of(error: Exception, spec: AgentSpec, model: Model) -> Failure:
    """What an exception of a model means."""
    words = _without_secrets(storable(_words_of(error, spec, model)), spec, model)
    words = cut(words, WORDS_BYTES)
    return Failure(words, _retryable(error), _retry_after(error))


def key_setting(spec: AgentSpec, provider: str) -> str:
    """The environment variable that holds the key for an agent's model."""
    if spec.api_key_env:
        return spec.api_key_env
    return f"{re.split(r'[-/]', provider)[0].upper()}_API_KEY"


def _retryable(error: Exception) -> bool:
    if isinstance(error, ExceptionGroup):  # a FallbackModel whose models all failed
        return any(_retryable(e) for e in error.exceptions)
    if isinstance(error, ModelQuotaExceededError):
        return False
    if isinstance(error, ModelHTTPError):
        return error.status_code in RETRYABLE_STATUS or error.status_code >= 500
    transient = (ModelConnectionError, ModelRequestTimeout, ConnectionError, TimeoutError)
    return isinstance(error, transient)


def _retry_after(error: Exception) -> float | None:
    if isinstance(error, ExceptionGroup):
        return max(filter(None, (_retry_after(e) for e in error.exceptions)), default=None)
    return error.retry_after if isinstance(error, ModelAPIError) else None


def _words_of(error: Exception, spec: AgentSpec, model: Model) -> str:
    if isinstance(error, ExceptionGroup):
        return "; ".join(_words_of(e, spec, model) for e in error.exceptions)
    if not isinstance(error, ModelAPIError):
        return words_of(error)
    provider = model.system
    if not isinstance(error, ModelHTTPError):
        return f"{provider} (model {error.model_name}): {error.message}"
    words = f"{provider}: HTTP {error.status_code} for model {error.model_name}: {_said(error)}"
    if error.status_code in AUTHENTICATION_STATUS or isinstance(error, ModelAuthenticationError):
        words += f". The key was refused: check {key_setting(spec, provider)} on the nodes"
    return words


def _said(error: ModelHTTPError) -> str:
    """The provider's own words, out of the usual shapes of an error body."""
    body = error.body
    if isinstance(body, dict) and isinstance(body.get("error"), dict | str):
        body = body["error"]
    if isinstance(body, dict) and body.get("message"):
        body = body["message"]
    return str(body) if body else "(no words of the provider)"


def _without_secrets(text: str, spec: AgentSpec, model: Model) -> str:
    client = getattr(model.provider, "client", None)
    secrets = (getattr(client, "api_key", None), os.environ.get(key_setting(spec, model.system)))
    for secret in secrets:
        if isinstance(secret, str) and len(secret) >= 8:
            text = text.replace(secret, "[key]")
    return KEY_LIKE.sub("[key]", text)
