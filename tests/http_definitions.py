"""A colony whose model is behind HTTP: ``tests.http_definitions:http``, for tests/fleet/test_http_model.py.

``TEST_MODEL_URL`` names the OpenAI-compatible server; the keys are read on the node, from the
variables that the agents name.
"""

from __future__ import annotations

import os

from colony import AgentSpec, Colony

MODEL = "openai:gpt-5-mini"
BASE_URL = os.environ.get("TEST_MODEL_URL", "http://127.0.0.1:1/v1")
NOBODY_LISTENS = "http://127.0.0.1:1/v1"

KEY = "TEST_MODEL_KEY"
WRONG_KEY = "TEST_MODEL_WRONG_KEY"


def _agent(name: str, *, key: str = KEY, url: str = BASE_URL, stream: bool = False) -> AgentSpec:
    return AgentSpec(
        name=name,
        model=MODEL,
        instructions="Add numbers with your tool, never in your head.",
        base_url=url,
        api_key_env=key,
        stream=stream,
        max_retries=2,
        max_turns=6,
    )


http = Colony(
    "http",
    goal="Be tested over HTTP.",
    agent=_agent("plain"),
    agents=[
        _agent("streaming", stream=True),
        _agent("wrong-key", key=WRONG_KEY),
        _agent("nobody-there", url=NOBODY_LISTENS),
    ],
)


@http.tool(read_only=True)
async def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return a + b
