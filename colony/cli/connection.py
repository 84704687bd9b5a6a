"""From the options to an open runtime, and which colony is meant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import ValidationError
from redis.connection import parse_url

from colony.errors import ColonyError, ConfigurationError, UnknownColony
from colony.operations import list_colonies
from colony.runtime import ColonyRuntime
from colony.settings import Settings
from colony.store.link import safe_url


def settings_of(redis_url: str | None, broker_url: str | None) -> Settings:
    """The settings of this process, options before environment.

    Raises `ConfigurationError` that names the variable and what is wrong with its value.
    """
    given = {"redis_url": redis_url, "broker_url": broker_url}
    for name, url in given.items():
        if url:
            _check_url(name, url)
    try:
        return Settings(**{name: url for name, url in given.items() if url})  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigurationError(
            "; ".join(_complaint(e["loc"], e["msg"]) for e in error.errors())
        ) from error


def _check_url(name: str, url: str) -> None:
    try:
        parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise ConfigurationError(
            f"COLONY_{name.upper()} (--{name.replace('_', '-')}) is not a Redis URL: {error}. "
            "Expected one such as redis://127.0.0.1:6379/0"
        ) from error


def _complaint(location: tuple[int | str, ...], message: str) -> str:
    where = f"COLONY_{'_'.join(map(str, location)).upper()}: " if location else ""
    return f"{where}{message}"


@asynccontextmanager
async def open_runtime(colony: str | None, settings: Settings) -> AsyncIterator[ColonyRuntime]:
    """The runtime of the named colony, or of the only one there is.

    Raises `UnknownColony` for a name that no node ever registered: reading it would show nothing.
    """
    colony_id = _chosen(colony, await list_colonies(settings), safe_url(settings.redis_url))
    async with ColonyRuntime(colony_id, settings=settings) as runtime:
        yield runtime


def _chosen(colony: str | None, names: list[str], where: str) -> str:
    match names:
        case _ if colony in names:
            return colony
        case [_, *_] if colony:
            raise UnknownColony(
                f"no colony {colony!r} is registered in {where}; there are: {', '.join(names)}. "
                "Check the name, or start a node of it with `colony worker module:colony`"
            )
        case [name]:
            return name
        case []:
            raise UnknownColony(
                f"no colony is registered in {where}: start a node with "
                "`colony worker module:colony`, or name another Redis with --redis-url"
            )
        case _:
            raise ColonyError(
                f"{where} holds {len(names)} colonies ({', '.join(names)}): "
                "say which one with --colony NAME"
            )
