"""`colony up`: a fleet in one terminal. With `--all` also what stands beside it: beat, gateway and Flower.

Everything is started at once and ends with this process (`colony.bound`); in order it ends so that nobody
misses anybody: gateway and beat, then the node, then Flower, then Redis.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from redis import Redis, RedisError

from colony.cli.connection import settings_of
from colony.cli.flower import flower_arguments
from colony.cli.nodes import node_process, until_alive
from colony.cli.options import (
    AsJson,
    BrokerUrl,
    Concurrency,
    Definition,
    LogLevel,
    NodeLogLevel,
    Processes,
    RedisUrl,
)
from colony.cli.output import emit_json, note, say
from colony.cli.processes import bound_command, child, environment, interruptible
from colony.definition import load_colony
from colony.errors import ColonyError
from colony.redis_server import EmbeddedRedis
from colony.runtime import ColonyRuntime
from colony.settings import Settings
from colony.store.link import safe_url
from colony.tokens import NewToken, Scope

LOOPBACK = "127.0.0.1"
PORTS = {"gateway": 8080, "Flower": 5555}
USER = "colony"
"""Who looks into Flower."""
READY_WITHIN_SECONDS = 60.0
END_WITHIN = timedelta(seconds=15)
LOOK_EVERY_SECONDS = 0.1
TOKEN_FOR = timedelta(days=1)
"""How long the session's token holds at most; it is revoked when the session ends in order."""
EXTRAS = {"redbeat": "beat", "uvicorn": "gateway", "flower": "flower"}


def up(
    definition: Definition,
    concurrency: Concurrency = None,
    processes: Processes = 1,
    directory: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="Keep the Redis data here. Default: they are gone when this ends."
        ),
    ] = None,
    all_: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Also a beat, the gateway and Flower, on loopback. Prints where they are, a token for the "
            "gateway and a password for Flower: made for this session, and shown this once.",
        ),
    ] = False,
    loglevel: NodeLogLevel = LogLevel.INFO,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Run a whole fleet in this terminal: an embedded Redis and a node. Ctrl-C ends all of it, in order.

    With --redis-url (or COLONY_REDIS_URL) that server is used and none is started.
    """
    settings_of(redis_url, broker_url)
    if all_:
        _check_extras()
    name = load_colony(definition).name
    options: list[str | int] = ["--processes", processes, "--loglevel", loglevel.value]
    if concurrency is not None:
        options += ["--concurrency", concurrency]
    running: dict[str, Callable[[], int | None]] = {}
    try:
        with interruptible(), ExitStack() as stack:
            url = redis_url
            if url is None:
                server = stack.enter_context(EmbeddedRedis(directory))
                running["Redis"], url = lambda: None if server.running else 1, server.url
            settings = settings_of(url, broker_url)
            beside = _start_flower(stack, running, name, settings, loglevel) if all_ else None
            node = stack.enter_context(node_process(definition, settings, *options))
            running["node"] = node.poll
            if beside is not None:
                _start_callers(stack, running, definition, settings, beside, loglevel)
            asyncio.run(until_alive(node, name, settings))
            if beside is None:
                _announce(name, url, node.pid, as_json=as_json)
            else:
                _until_ready(running, name, settings, beside)
                token = stack.enter_context(_token(name, settings))
                _announce_all(name, url, beside, token, as_json=as_json)
            raise ColonyError(_first_end(running))
    except KeyboardInterrupt:
        note(f"Ended: {', then '.join(reversed(running))}.")


def _announce(name: str, url: str, pid: int, *, as_json: bool) -> None:
    if as_json:
        emit_json({"colony": name, "redis_url": url, "node_pid": pid}, indent=None)
        return
    say(f"Colony {name} is up on {safe_url(url)}. Ctrl-C ends it. From another terminal:")
    say(f'  colony spawn "a task" --wait --colony {name} --redis-url {safe_url(url)}')
    sys.stdout.flush()


def _first_end(running: dict[str, Callable[[], int | None]]) -> str:
    """Wait until something has ended by itself, and say what."""
    while True:
        if ended := _ended(running):
            return ended
        time.sleep(LOOK_EVERY_SECONDS)


def _ended(running: dict[str, Callable[[], int | None]]) -> str:
    for what, poll in running.items():
        if (code := poll()) is not None:
            return f"the {what} ended by itself, with exit code {code}: the rest is ended, too"
    return ""


# -- beside the node --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Beside:
    """Where gateway and Flower are, and Flower's password."""

    gateway_port: int
    flower_port: int
    password: str = field(repr=False)

    @property
    def gateway(self) -> str:
        """The gateway's URL."""
        return f"http://{LOOPBACK}:{self.gateway_port}"

    @property
    def flower(self) -> str:
        """Flower's URL."""
        return f"http://{LOOPBACK}:{self.flower_port}"


def _check_extras() -> None:
    missing = [extra for module, extra in EXTRAS.items() if find_spec(module) is None]
    if missing:
        raise ColonyError(
            f"colony up --all needs more than is installed: pip install 'colony[{','.join(missing)}]'"
        )


def _free_port(wanted: int) -> int:
    """The wanted port of loopback, or any other when somebody listens there."""
    for port in (wanted, 0):
        with socket.socket() as tried, suppress(OSError):
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((LOOPBACK, port))
            return int(tried.getsockname()[1])
    raise ColonyError(f"no port of {LOOPBACK} is free")


def _start_flower(
    stack: ExitStack,
    running: dict[str, Callable[[], int | None]],
    name: str,
    settings: Settings,
    loglevel: LogLevel,
) -> Beside:
    """First of them: it hears what the others do from their beginning to their end."""
    ports = {what: _free_port(wanted) for what, wanted in PORTS.items()}
    beside = Beside(ports["gateway"], ports["Flower"], secrets.token_urlsafe(12))
    env = {
        "COLONY_NAME": name,
        "COLONY_FLOWER_HOST": LOOPBACK,
        "COLONY_FLOWER_PORT": str(beside.flower_port),
        "COLONY_FLOWER_BASIC_AUTH": f"{USER}:{beside.password}",
        "COLONY_FLOWER_BASIC_AUTH_FILE": "",
        "COLONY_FLOWER_NO_AUTH": "",
    }
    arguments = flower_arguments(_quieter(loglevel))
    _start(stack, running, settings, "Flower", env, "celery", *arguments)
    return beside


def _start_callers(
    stack: ExitStack,
    running: dict[str, Callable[[], int | None]],
    definition: str,
    settings: Settings,
    beside: Beside,
    loglevel: LogLevel,
) -> None:
    """Who asks something of the node: they end before it."""
    beat = ["--app", "workers.app", "beat", "--loglevel", _quieter(loglevel), "--pidfile", ""]
    env = {"COLONY_APP": definition, "COLONY_HEALTH_PORT": ""}  # that is the node's
    _start(stack, running, settings, "beat", env, "celery", *beat)
    gateway = ["gateway", "--host", LOOPBACK, "--port", str(beside.gateway_port)]
    gateway += ["--definition", definition, "--loglevel", _quieter(loglevel)]
    _start(stack, running, settings, "gateway", {}, "colony.cli", *gateway)


def _start(
    stack: ExitStack,
    running: dict[str, Callable[[], int | None]],
    settings: Settings,
    what: str,
    env: dict[str, str],
    module: str,
    *arguments: str,
) -> None:
    command = bound_command(os.getpid(), signal.SIGKILL, module, *arguments)
    env |= environment(settings.redis_url, settings.broker_url)
    process: subprocess.Popen[bytes] = stack.enter_context(
        child(what, command, env, grace=END_WITHIN)
    )
    running[what] = process.poll


def _quieter(loglevel: LogLevel) -> str:
    """The node is the one to listen to: the others say what goes wrong."""
    return (LogLevel.WARNING if loglevel is LogLevel.INFO else loglevel).value


def _until_ready(
    running: dict[str, Callable[[], int | None]], name: str, settings: Settings, beside: Beside
) -> None:
    waiting: dict[str, Callable[[], bool]] = {
        "gateway": lambda: _answers(f"{beside.gateway}/readyz"),
        "Flower": lambda: _answers(f"{beside.flower}/healthcheck"),
        "beat": lambda: _beats(name, settings),
    }
    until = time.monotonic() + READY_WITHIN_SECONDS
    while waiting := {what: ready for what, ready in waiting.items() if not ready()}:
        if ended := _ended(running):
            raise ColonyError(ended)
        if time.monotonic() > until:
            raise ColonyError(
                f"not ready within {READY_WITHIN_SECONDS:.0f} s: {', '.join(waiting)}. See their logs above"
            )
        time.sleep(LOOK_EVERY_SECONDS)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _beats(name: str, settings: Settings) -> bool:
    """Whether a beat holds RedBeat's lock: this one, or one that it stands by for."""
    try:
        with Redis.from_url(settings.queue_url) as client:
            return bool(client.exists(f"colony.{name}.beat::lock"))
    except RedisError:
        return False


@contextmanager
def _token(name: str, settings: Settings) -> Iterator[NewToken]:
    """A token for the gateway, until the context ends."""

    async def make() -> NewToken:
        async with ColonyRuntime(name, settings=settings) as runtime:
            scopes = [Scope.READ, Scope.SPAWN, Scope.STOP]
            return await runtime.create_token("colony up", scopes, expires_in=TOKEN_FOR)

    async def revoke(token_id: str) -> None:
        async with ColonyRuntime(name, settings=settings) as runtime:
            await runtime.revoke_token(token_id)

    token = asyncio.run(make())
    try:
        yield token
    finally:
        with suppress(ColonyError):  # Redis is gone, or an operator was faster
            asyncio.run(revoke(token.token_id))


def _announce_all(name: str, url: str, beside: Beside, token: NewToken, *, as_json: bool) -> None:
    if as_json:
        emit_json(
            {
                "colony": name,
                "redis_url": url,
                "gateway_url": beside.gateway,
                "gateway_token": token.token,
                "flower_url": beside.flower,
                "flower_user": USER,
                "flower_password": beside.password,
            },
            indent=None,
        )
        return
    say(f"Colony {name} is up: node, beat, gateway and Flower. Ctrl-C ends all of it.")
    say(f"  Redis    {safe_url(url)}")
    say(f"  gateway  {beside.gateway}/v1/colonies/{name}/workers (described at /openapi.json)")
    say(f"           Authorization: Bearer {token.token}")
    say(f"  Flower   {beside.flower} (user {USER}, password {beside.password})")
    say("The token and the password are for this session, and are not shown again. Elsewhere:")
    say(f'  colony spawn "a task" --wait --colony {name} --redis-url {safe_url(url)}')
    sys.stdout.flush()
