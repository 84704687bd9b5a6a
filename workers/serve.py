"""Starting nodes: one in this process, or several under a small supervisor."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import Any

from celery import signals

from colony.definition import AgentSpec, load_colony
from colony.errors import ColonyError, ConfigurationError
from colony.settings import Settings
from colony.store import Link, Store
from workers.agent.model import resolve_model
from workers.app import make_app

LOOK_EVERY_SECONDS = 0.2
BEGIN_AGAIN_AFTER_SECONDS = 3.0
POOLS = ("asyncio", "threads", "prefork", "solo")


def check(settings: Settings) -> None:
    """Everything that a user may have got wrong, found before a node begins. Raises a `ColonyError`."""
    if not settings.app:
        raise ConfigurationError("no definition to serve: name it as module:attribute")
    colony = load_colony(settings.app)
    asyncio.run(_check_models_and_redis(settings, colony.name, list(colony.agents.values())))


async def _check_models_and_redis(
    settings: Settings, colony_id: str, specs: list[AgentSpec]
) -> None:
    for spec in specs:
        resolve_model(spec)
    link = Link(settings.redis_url, patience=settings.connect_timeout)
    try:
        await Store(link, colony_id).check_schema()
    finally:
        await link.close()


def serve(settings: Settings, *, concurrency: int | None, pool: str, loglevel: str) -> int:
    """Run one node in this process until it is told to end. Returns its exit code."""
    app = make_app(settings)
    nodes: list[Any] = []
    signals.worker_init.connect(lambda sender, **_: nodes.append(sender), weak=False)
    options = ["worker", "--loglevel", loglevel, "--without-mingle", "--without-gossip"]
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
    return max((node.exitcode or 0 for node in nodes), default=0)  # worker_main drops it


def settings_name(settings: Settings) -> str:
    """A short name for node names: the definition's module without its package."""
    module = (settings.app or "node").partition(":")[0]
    return module.rpartition(".")[2]


class Supervisor:
    """Keeps a number of node processes alive, and ends them all on SIGTERM and SIGINT."""

    def __init__(self, command: list[str], processes: int) -> None:
        self._command = command
        self._told: int | None = None
        signal.signal(signal.SIGTERM, self._tell)
        signal.signal(signal.SIGINT, self._tell)
        self._begun = [0.0] * processes
        self._nodes = [self._begin(index) for index in range(processes)]

    def run(self) -> int:
        """Until told to end; returns the worst exit code of the nodes."""
        while self._told is None:
            for index, node in enumerate(self._nodes):
                if node.poll() is not None and self._may_begin(index):
                    sys.stderr.write(f"colony: node process {node.pid} ended, another is started\n")
                    self._nodes[index] = self._begin(index)
            time.sleep(LOOK_EVERY_SECONDS)
        return self._end(self._told)

    def _begin(self, index: int) -> subprocess.Popen[bytes]:
        self._begun[index] = time.monotonic()
        return subprocess.Popen(self._command)

    def _may_begin(self, index: int) -> bool:
        """Not faster than every few seconds: a node that cannot start must not keep a core busy."""
        return time.monotonic() - self._begun[index] > BEGIN_AGAIN_AFTER_SECONDS

    def _tell(self, signum: int, _: FrameType | None) -> None:
        """Only noted: a signal may come in the middle of starting a node, which must be told too."""
        self._told = signum

    def _end(self, signum: int) -> int:
        for node in self._nodes:
            if node.poll() is None:
                node.send_signal(signum)
        codes = [node.wait() for node in self._nodes]
        # A node that was still starting has no handler yet: our signal ends it, and nothing is lost.
        return max(0 if code == -signum else abs(code) for code in codes)


def main(argv: list[str]) -> int:
    """``python -m workers module:colony``: start one node, or several with ``--processes``."""
    parser = argparse.ArgumentParser(prog="python -m workers", description=main.__doc__)
    parser.add_argument("app", help="the definition, as module:attribute")
    parser.add_argument("--concurrency", type=int)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--pool", choices=POOLS, default="asyncio")
    parser.add_argument("--loglevel", default="info")
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
        command += ["--loglevel", options.loglevel]
        if options.concurrency is not None:
            command += ["--concurrency", str(options.concurrency)]
        return Supervisor(command, options.processes).run()
    return serve(
        settings, concurrency=options.concurrency, pool=options.pool, loglevel=options.loglevel
    )
