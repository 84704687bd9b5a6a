"""Doing something to each of those that an operator names, or to all there are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import typer

from colony.cli.connection import open_runtime, settings_of
from colony.runtime import ColonyRuntime

Done = TypeVar("Done")

EVERYTHING = 1_000_000
"""As many as a list may be asked for, where all are meant."""


def do_to_each(
    verb: Callable[[ColonyRuntime, str], Awaitable[Done]],
    ids: Sequence[str] | None,
    every: Callable[[ColonyRuntime], Awaitable[Sequence[str]]] | None,
    *,
    expected: str,
    where: tuple[str | None, str | None, str | None],
) -> dict[str, Done]:
    """Id → what came of it: of the `ids`, or else of those that `every` finds (None: all were not asked for).

    `expected`: what is said to a command that names neither, or both. `where`: colony, Redis, broker.
    """
    colony, redis_url, broker_url = where

    async def run() -> dict[str, Done]:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            chosen = ids or (await every(runtime) if every else ())
            return {one: await verb(runtime, one) for one in dict.fromkeys(chosen)}

    if bool(ids) == (every is not None):
        raise typer.BadParameter(expected, param_hint="'ID…'")
    return asyncio.run(run())
