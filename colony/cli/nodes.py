"""Nodes: `colony worker` becomes one; beats; a node as a child process; draining."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib.util import find_spec
from typing import IO, Annotated

import typer

from colony.cli.connection import open_runtime, settings_of
from colony.cli.durations import duration_option, short_duration
from colony.cli.harvest import TEN_MINUTES
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
from colony.cli.processes import (
    STDERR,
    bound_command,
    child,
    environment,
    python_command,
)
from colony.errors import ColonyError, UnknownNode
from colony.runtime import ColonyRuntime
from colony.settings import Settings
from colony.store import Link

READY_WITHIN = timedelta(seconds=60)
"""How long a node may take to import its definition and to take its lease."""

GRACE = timedelta(seconds=10)
"""How long a node that was told to end may take beyond its drain_grace before it is killed."""


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
) -> None:
    """Start a node: a process that runs the colony's workers, until Ctrl-C or SIGTERM.

    When it is told to end (SIGTERM, Ctrl-C, `colony drain`) it takes nothing new, lets the calls to models
    and tools that are in flight end (at most COLONY_DRAIN_GRACE, 20 s), and hands its workers over at their
    last checkpoints: no call is repeated, no death is counted. A second SIGTERM changes nothing; SIGQUIT,
    or Ctrl-C again, hands over at once and cuts the calls. Start as many nodes as you like, on as many
    hosts as reach the Redis.
    """
    settings_of(redis_url, broker_url)
    os.environ.update(environment(redis_url, broker_url))
    sys.stdout.flush()
    sys.stderr.flush()
    options = {
        "--processes": str(processes),
        "--pool": pool.value,
        "--loglevel": loglevel.value,
    }
    if concurrency is not None:
        options["--concurrency"] = str(concurrency)
    command = python_command(
        "workers", definition, *(word for pair in options.items() for word in pair)
    )
    os.execv(command[0], command)  # signals reach the node itself, nothing stands between


def beat(
    definition: Definition,
    loglevel: NodeLogLevel = LogLevel.INFO,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Start a beat: it tells the nodes every second to look for timers that are due. Run two: one stands by.

    Which timers are due is decided by Redis' clock, so a beat that is late, or two of them, or one with a
    wrong clock fire nothing early and nothing twice; while none beats, the nodes look by themselves. A beat
    outlasts a Redis that goes away.
    """
    settings = settings_of(redis_url, broker_url)
    if find_spec("redbeat") is None:
        raise ColonyError("colony beat needs celery-redbeat: pip install 'colony[beat]'")
    asyncio.run(_heard(settings))
    os.environ.update(environment(redis_url, broker_url) | {"COLONY_APP": definition})
    quiet = ["--quiet"] if settings.log_format == "json" else []  # no banner
    command = python_command(
        "celery", *quiet, "--app", "workers.app", "beat", "--loglevel", loglevel.value
    )
    os.execv(command[0], command)


async def _heard(settings: Settings) -> None:
    """Raises `StoreUnavailable`, which says what to do, where Redis does not answer."""
    link = Link(settings.queue_url, patience=settings.connect_timeout)
    try:
        await link.call("PING")
    finally:
        await link.close()


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
    timeout: Annotated[
        timedelta,
        typer.Option(
            parser=duration_option, metavar="DURATION", help="How long --wait waits for their ends."
        ),
    ] = TEN_MINUTES,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """End nodes as SIGTERM does, from afar: they take nothing new and hand over what they run.

    A node of `colony worker --processes N` is not started again; one under systemd or in Kubernetes is,
    unless its unit or deployment is told otherwise. One that does not answer any more (frozen, cut off) is
    gone when its lease has run out: what it ran goes on elsewhere, and it ends if it comes back within an
    hour. The exit code of --wait is 0 if none is left.
    """
    if bool(node) == all_:
        raise typer.BadParameter("name nodes, or --all", param_hint="'NODE…'")

    async def run() -> tuple[list[str], dict[str, bool]]:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            drained = [await runtime.drain_node(name) for name in node or ()]
            if all_:
                drained = await _drain_all(runtime)
            return drained, await _until_gone(runtime, drained, timeout) if wait else {}

    drained, gone = asyncio.run(run())
    if as_json:
        ended = wait and all(gone.get(name) for name in drained)
        emit_json({"drained": drained, "ended": ended, "gone": [n for n in gone if not gone[n]]})
    elif not drained:
        say("No node is alive: there is nothing to drain.")
    else:
        for name in drained:
            say(f"{name} {_what_became_of(gone.get(name))}")
    if wait and len(gone) < len(drained):
        note(f"Not all have ended within {short_duration(timeout.total_seconds())}.")
        raise typer.Exit(1)


async def _drain_all(runtime: ColonyRuntime) -> list[str]:
    """Drain every node that is alive; one that ends just now need not be."""
    drained = []
    for found in await runtime.list_nodes():
        if found.lease_seconds > 0:
            with suppress(UnknownNode):
                drained.append(await runtime.drain_node(found.node))
    return drained


async def _until_gone(
    runtime: ColonyRuntime, names: Sequence[str], timeout: timedelta
) -> dict[str, bool]:
    """Those that have gone within the time, each with whether it ended in order: before the end of the
    last lease that it was seen with."""
    gone: dict[str, bool] = {}
    leases: dict[str, float] = {}
    until = time.monotonic() + timeout.total_seconds()
    while True:
        asked_at = time.monotonic()
        found = {info.node: info.lease_seconds for info in await runtime.list_nodes()}
        now = time.monotonic()
        for name in set(names) - set(gone):
            if found.get(name, 0) > 0:
                leases[name] = asked_at + found[name]
            else:
                gone[name] = name not in found and now < leases.get(name, until)
        if len(gone) == len(set(names)) or now >= until:
            return gone
        await asyncio.sleep(0.1)  # they are other processes


def _what_became_of(in_order: bool | None) -> str:
    match in_order:
        case None:
            return "drains"
        case True:
            return "has ended"
        case False:
            return "is gone: its lease ran out. What it ran goes on elsewhere; it ends if it comes back"


@contextmanager
def node_process(
    definition: str, settings: Settings, *options: str | int, output: int | IO[bytes] = STDERR
) -> Iterator[subprocess.Popen[bytes]]:
    """A node as a child process, ended in order when the context ends, or with this process.

    One that is alone is killed with its owner: its Redis most likely ended too, so it could hand nothing
    over, and otherwise its lease gives its workers back. A supervisor of several must pass it on.
    """
    words = [*map(str, options)]
    several = "--processes" in words and words[words.index("--processes") + 1] != "1"
    how = signal.SIGTERM if several else signal.SIGKILL
    command = bound_command(os.getpid(), how, "workers", definition, *words)
    env = environment(settings.redis_url, settings.broker_url)
    grace = settings.drain_grace + GRACE
    with child("node", command, env, grace=grace, output=output) as process:
        yield process


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
