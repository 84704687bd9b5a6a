"""Calling ``colony …`` in tests, and a colony for it that nobody serves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from typer.testing import CliRunner

from colony.cli import app
from colony.definition import AgentSpec, Colony
from colony.doorbell import celery_app
from colony.redis_server import EmbeddedRedis
from colony.settings import Settings
from workers.node.context import NodeContext


def call(*arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``colony …``."""
    result = CliRunner().invoke(app, list(arguments), input=stdin, env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def answer(url: str, *arguments: str, code: int = 0, stdin: str | None = None) -> Any:
    """What a command prints with --json."""
    got, out, err = call(*arguments, "--json", "--redis-url", url, stdin=stdin)
    assert got == code, err
    return json.loads(out)


@contextmanager
def registered_colony(name: str) -> Iterator[str]:
    """The URL of a Redis where a colony is registered and nobody runs its workers."""
    colony = Colony(name, agent=AgentSpec(model="test"))
    with EmbeddedRedis() as server:
        settings = Settings(redis_url=server.url)
        context = NodeContext(colony, settings, celery_app(colony.name, settings))

        async def register() -> None:
            store = context.open_store(patience=timedelta(seconds=1))
            await store.register(context.face())
            await store.link.close()

        asyncio.run(register())
        yield server.url
