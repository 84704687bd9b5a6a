"""Starting nodes: one in this process, or several under a small supervisor."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections import deque
from types import FrameType
from typing import Any

from celery import signals

from colony import logs, tracing
from colony.definition import AgentSpec, load_colony
from colony.errors import ColonyError, ConfigurationError
from colony.settings import Settings
from colony.store import Link, Store
from workers.agent.model import resolve_model
from workers.app import make_app
from workers.node.drain import EXIT_DRAINED

log = logging.getLogger("colony.supervisor")

LOOK_EVERY_SECONDS = 0.2
BEGIN_AGAIN_AFTER_SECONDS = 3.0
POOLS = ("asyncio", "threads", "prefork", "solo")


def check(settings: Settings) -> None:
    """Everything that a user may have got wrong, found before a node begins. Raises a `ColonyError`."""
    if not settings.app:
        raise ConfigurationError("no definition to serve: name it as module:attribute")
    colony = load_colony(settings.app)
    tracing.enable(settings, "node")
    asyncio.run(_check_models_and_redis(settings, colony.name, list(colony.agents.values())))


async def _check_models_and_redis(
    settings: Settings, colony_id: str, specs: list[AgentSpec]
) -> None:
    for spec in specs:
        resolve_model(spec)
    link = Link(settings.store_url, patience=settings.connect_timeout)
    try:
        await Store(link, colony_id).check_schema()
    finally:
        await link.close()


def serve(
    settings: Settings,
    *,
    concurrency: int | None,
    pool: str,
    loglevel: str,
    supervised: bool = False,
) -> int:
    """Run one node in this process until it is told to end. Returns its exit code; to a supervisor
    that of a drained node is `EXIT_DRAINED`."""
    app = make_app(settings)
    nodes: list[Any] = []
    signals.worker_init.connect(lambda sender, **_: nodes.append(sender), weak=False)
    quiet = []
    if settings.log_format == "json":  # nothing but lines of JSON, from the first on
        logs.configure("json", loglevel.upper())
        logging.captureWarnings(True)
        quiet = ["--quiet"]
    options = [*quiet, "worker", "--loglevel", loglevel, "--without-mingle", "--without-gossip"]
    options += ["-n", f"{settings_name(settings)}-{secrets.token_hex(3)}@%h"]
    if pool != "asyncio":
        app.conf.worker_pool = pool  # Celery takes "--pool prefork" for "as configured"
        options += ["--pool", pool]
    if concurrency is not None:
        options += ["--concurrency", str(concurrency)]
    try:
        app.worker_main(options)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    code = max((node.exitcode or 0 for node in nodes), default=0)  # worker_main drops it
    return EXIT_DRAINED if code == 0 and supervised and app.colony_drain.from_afar else code


def settings_name(settings: Settings) -> str:
    """A short name for node names: the definition's module without its package."""
    module = (settings.app or "node").partition(":")[0]
    return module.rpartition(".")[2]


class Supervisor:
    """Keeps a number of node processes alive, and hands on SIGTERM and SIGQUIT, each as often as it comes.
    A terminal's Ctrl-C reaches the nodes, too: it is handed on as SIGTERM, or again as SIGQUIT, so that
    none takes one for two. A node that an operator has drained is not started again."""

    def __init__(self, command: list[str], processes: int) -> None:
        self._command = command
        self._told: deque[int] = deque()
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(signum, self._tell)
        self._begun = [0.0] * processes
        self._nodes = [self._begin(index) for index in range(processes)]

    def run(self) -> int:
        """Until told to end, or until every node was drained; returns the worst exit code of the nodes."""
        told: list[int] = []
        while not told or any(node.poll() is None for node in self._nodes):
            while self._told:
                told.append(_handed_on(self._told.popleft(), again=bool(told)))
                self._hand_on(told[-1])
            if not told:
                if all(node.poll() == EXIT_DRAINED for node in self._nodes):
                    return 0
                self._replace_ended()
            time.sleep(LOOK_EVERY_SECONDS)
        # A node that was still starting has no handler yet: our signal ends it, and nothing is lost.
        harmless = {0, EXIT_DRAINED, *(-signum for signum in told)}
        return max(0 if node.wait() in harmless else abs(node.wait()) for node in self._nodes)

    def _replace_ended(self) -> None:
        for index, node in enumerate(self._nodes):
            code = node.poll()
            if code not in (None, EXIT_DRAINED) and self._may_begin(index) and not self._told:
                told = "node process %d ended with exit code %s, another is started"
                log.warning(told, node.pid, code)
                self._nodes[index] = self._begin(index)

    def _begin(self, index: int) -> subprocess.Popen[bytes]:
        self._begun[index] = time.monotonic()
        return subprocess.Popen(self._command, env=_environment(index))

    def _may_begin(self, index: int) -> bool:
        """Not faster than every few seconds: a node that cannot start must not keep a core busy."""
        return time.monotonic() - self._begun[index] > BEGIN_AGAIN_AFTER_SECONDS

    def _tell(self, signum: int, _: FrameType | None) -> None:
        """Only noted: a signal may come in the middle of starting a node, which must be told too."""
        self._told.append(signum)

    def _hand_on(self, signum: int) -> None:
        for node in self._nodes:
            if node.poll() is None:
                node.send_signal(signum)


def _handed_on(signum: int, *, again: bool) -> int:
    if signum != signal.SIGINT:
        return signum
    return signal.SIGQUIT if again else signal.SIGTERM


def _environment(index: int) -> dict[str, str]:
    """The same for all nodes, but each has a health port of its own."""
    first = Settings().health_port
    own = {} if not first else {"COLONY_HEALTH_PORT": str(first + index)}
    return {**os.environ, **own}


def main(argv: list[str]) -> int:
    """``python -m workers module:colony``: start one node, or several with ``--processes``."""
    parser = argparse.ArgumentParser(prog="python -m workers", description=main.__doc__)
    parser.add_argument("app", help="the definition, as module:attribute")
    parser.add_argument("--concurrency", type=int)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--pool", choices=POOLS, default="asyncio")
    parser.add_argument("--loglevel", default="info")
    parser.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    os.environ["COLONY_APP"] = options.app
    try:
        settings = Settings()
        check(settings)
    except ColonyError as error:
        sys.stderr.write(f"colony: {error}\n")
        return 1
    if options.processes > 1:
        python = [sys.executable, *(["-P"] if sys.flags.safe_path else [])]
        command = [*python, "-m", "workers", options.app, "--pool", options.pool]
        command += ["--loglevel", options.loglevel, "--supervised"]
        if options.concurrency is not None:
            command += ["--concurrency", str(options.concurrency)]
        logs.configure(settings.log_format, options.loglevel.upper())
        return Supervisor(command, options.processes).run()
    return serve(
        settings,
        concurrency=options.concurrency,
        pool=options.pool,
        loglevel=options.loglevel,
        supervised=options.supervised,
    )
