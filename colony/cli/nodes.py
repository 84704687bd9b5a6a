"""Nodes: `colony worker` becomes one, `colony up` keeps one beside an embedded Redis."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import IO, Annotated

import typer

import colony as colony_package
from colony.cli.connection import open_runtime, settings_of
from colony.cli.options import (
    AsJson,
    BrokerUrl,
    ColonyName,
    Concurrency,
    Definition,
    LogLevel,
    NodeLogLevel,
    Pool,
    Processes,
    RedisUrl,
)
from colony.cli.output import emit_json, note, say
from colony.definition import load_colony
from colony.errors import ColonyError
from colony.redis_server import EmbeddedRedis
from colony.runtime import ColonyRuntime
from colony.settings import Settings
from colony.store.link import safe_url

READY_WITHIN = timedelta(seconds=60)
"""How long a node may take to import its definition and to take its lease."""

GRACE = timedelta(seconds=10)
"""How long a node that was told to end may take beyond its drain_grace before it is killed."""

STDERR = 2
PR_SET_PDEATHSIG = 1


def worker(
    definition: Definition,
    concurrency: Concurrency = None,
    processes: Processes = 1,
    pool: Annotated[
        Pool,
        typer.Option(
            help="What runs the workers: one event loop for all of them, or Celery's pools."
        ),
    ] = Pool.ASYNCIO,
    loglevel: NodeLogLevel = LogLevel.INFO,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    owner: Annotated[int | None, typer.Option(hidden=True, min=2)] = None,
) -> None:
    """Start a node: a process that runs the colony's workers, until Ctrl-C or SIGTERM.

    When it is told to end (SIGTERM, Ctrl-C, `colony drain`) it takes nothing new, lets the calls to models
    and tools that are in flight end (at most COLONY_DRAIN_GRACE, 20 s), and hands its workers over at their
    last checkpoints: no call is repeated, no death is counted. A second SIGTERM changes nothing; SIGQUIT,
    or Ctrl-C again, hands over at once and cuts the calls. Start as many nodes as you like, on as many
    hosts as reach the Redis.
    """
    settings_of(redis_url, broker_url)
    os.environ.update(_environment(redis_url, broker_url))
    if owner is not None:
        _end_with(owner, signal.SIGKILL if processes == 1 else signal.SIGTERM)
    sys.stdout.flush()
    sys.stderr.flush()
    options = {
        "--processes": str(processes),
        "--pool": pool.value,
        "--loglevel": loglevel.value,
    }
    if concurrency is not None:
        options["--concurrency"] = str(concurrency)
    command = _python("workers", definition, *(word for pair in options.items() for word in pair))
    os.execv(command[0], command)  # signals reach the node itself, nothing stands between


def beat(
    definition: Definition,
    loglevel: NodeLogLevel = LogLevel.INFO,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Start a beat: it tells the nodes every second to look for timers that are due. Run two: one stands by.

    Which timers are due is decided by Redis' clock, so a beat that is late, or two of them, or one with a
    wrong clock fire nothing early and nothing twice; while none beats, the nodes' janitors look.
    """
    settings_of(redis_url, broker_url)
    if find_spec("redbeat") is None:
        raise ColonyError("colony beat needs celery-redbeat: pip install 'colony[beat]'")
    os.environ.update(_environment(redis_url, broker_url) | {"COLONY_APP": definition})
    command = _python("celery", "--app", "workers.app", "beat", "--loglevel", loglevel.value)
    os.execv(command[0], command)


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
    loglevel: NodeLogLevel = LogLevel.INFO,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Run a whole fleet in this terminal: an embedded Redis and a node. Ctrl-C ends both, in order.

    With --redis-url (or COLONY_REDIS_URL) that server is used and none is started.
    """
    settings_of(redis_url, broker_url)
    name = load_colony(definition).name
    try:
        with interruptible(), ExitStack() as stack:
            url = redis_url or stack.enter_context(EmbeddedRedis(directory)).url
            settings = settings_of(url, broker_url)
            options: list[str | int] = ["--processes", processes]
            if concurrency is not None:
                options += ["--concurrency", concurrency]
            node = stack.enter_context(
                node_process(definition, settings, *options, "--loglevel", loglevel.value)
            )
            asyncio.run(until_alive(node, name, settings))
            _announce(name, url, node.pid, as_json=as_json)
            raise ColonyError(f"the node ended by itself, with exit code {node.wait()}")
    except KeyboardInterrupt:
        note("Ended: the node, then Redis." if not redis_url else "Ended: the node.")


def drain(
    node: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NODE…",
            help="The name of a node as `colony stats` shows it, or its beginning.",
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every node that is alive.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Return when they have ended.")
    ] = False,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """End nodes as SIGTERM does, from afar: they take nothing new and hand over what they run.

    A node of `colony worker --processes N` is not started again; one under systemd or in Kubernetes is,
    unless its unit or deployment is told otherwise.
    """
    if bool(node) == all_:
        raise typer.BadParameter("name nodes, or --all", param_hint="'NODE…'")

    async def run() -> list[str]:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            alive = [found.node for found in await runtime.list_nodes() if found.lease_seconds > 0]
            drained = [await runtime.drain_node(name) for name in node or alive]
            left = {*drained} if wait else set()
            while left := left & {  # noqa: ASYNC110 (they are other processes)
                found.node for found in await runtime.list_nodes()
            }:
                await asyncio.sleep(0.1)
            return drained

    drained = asyncio.run(run())
    if as_json:
        emit_json({"drained": drained, "ended": wait})
        return
    for name in drained:
        say(f"{name} {'has ended' if wait else 'drains'}")


def _announce(name: str, url: str, pid: int, *, as_json: bool) -> None:
    if as_json:
        emit_json({"colony": name, "redis_url": url, "node_pid": pid}, indent=None)
        return
    say(f"Colony {name} is up on {safe_url(url)}. Ctrl-C ends it. From another terminal:")
    say(f'  colony spawn "a task" --wait --colony {name} --redis-url {safe_url(url)}')
    sys.stdout.flush()


@contextmanager
def node_process(
    definition: str, settings: Settings, *options: str | int, output: int | IO[bytes] = STDERR
) -> Iterator[subprocess.Popen[bytes]]:
    """A node as a child process, ended in order when the context ends, or with this process.

    It is in a session of its own: a terminal's Ctrl-C reaches the owner, who decides the order.
    """
    command = _python(
        "colony.cli", "worker", definition, "--owner", str(os.getpid()), *map(str, options)
    )
    process = subprocess.Popen(
        command,
        env=os.environ | _environment(settings.redis_url, settings.broker_url),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _end(process, settings.drain_grace + GRACE)


async def until_alive(node: subprocess.Popen[bytes], colony_id: str, settings: Settings) -> None:
    """Return when the colony has a living node; `ColonyError` when this one ended before."""
    try:
        async with (
            asyncio.timeout(READY_WITHIN.total_seconds()),
            ColonyRuntime(colony_id, settings=settings) as runtime,
        ):
            while not any(found.lease_seconds > 0 for found in await runtime.list_nodes()):
                if node.poll() is not None:
                    raise ColonyError(f"the node could not start (exit code {node.returncode})")
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        raise ColonyError(
            f"the node was not ready within {READY_WITHIN.seconds} s: its log says why"
        ) from error


def _end(process: subprocess.Popen[bytes], grace: timedelta) -> None:
    """SIGTERM and a bounded wait; SIGKILL for it and its children when that was not enough."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(grace.total_seconds())
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as impatient:
        why = (
            "a second Ctrl-C" if isinstance(impatient, KeyboardInterrupt) else f"{grace.seconds} s"
        )
        note(f"The node had not ended after {why} and is killed.", "yellow")
        with suppress(ProcessLookupError):  # it ended in this very moment
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and a closed terminal are a Ctrl-C; also where a shell had Ctrl-C ignored."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    wanted = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: interrupt,
        signal.SIGHUP: interrupt,
    }
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours, not a namesake in the working directory."""
    home = Path(colony_package.__file__).resolve().parents[1]
    safe = [] if home == Path.cwd() else ["-P"]
    return [sys.executable, *safe, "-m", module, *arguments]


def _environment(redis_url: str | None, broker_url: str | None) -> dict[str, str]:
    urls = {"COLONY_REDIS_URL": redis_url, "COLONY_BROKER_URL": broker_url}
    return {name: url for name, url in urls.items() if url}


def _end_with(owner: int, how: signal.Signals) -> None:
    """Have the kernel send a signal when the owner ends, also by SIGKILL. It survives exec.

    One node is killed: its Redis most likely ended with the owner, so it could hand nothing over,
    and otherwise its lease gives its workers back. A supervisor of several must pass it on.
    Linux only; elsewhere only an owner that ends in order takes its node along.
    """
    if not sys.platform.startswith("linux"):
        return
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, how) != 0:
        raise ColonyError(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != owner:
        raise ColonyError("the process that started this node has ended: so does the node")
