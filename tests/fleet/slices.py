"""Slices in processes that die right before or right after a checkpoint, against a real store.

    with SliceProcesses(redis_url, calls, mails) as slices:
        worker = slices.spawn("long")
        slices.run(worker, die_after=3)   # a process of its own, gone after the third checkpoint
        slices.run(worker)                # another one goes on

Each process is forked from a server that has the imports done, and shares nothing else.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import workers.slice
from colony.conversation import Part, Step
from colony.doorbell import celery_app
from colony.models import WorkerRecord
from colony.settings import Settings
from colony.store import Link, Store
from colony.store.records import new_record, new_worker_id
from tests import definitions
from tests.fleet.definitions import make_deadly
from workers.host import host_of
from workers.journal import StoreJournal
from workers.node.context import NodeContext

COLONY = "resume"
DIED = 9
LEASE = timedelta(seconds=60)
PATIENCE = timedelta(seconds=2)
AGAIN = timedelta(seconds=30)


@dataclass(frozen=True)
class Death:
    """When a process ends without a word: around its n-th checkpoint. 0: it does not."""

    before: int = 0
    after: int = 0


def run_slice_and_die(
    url: str, node: str, worker_id: str, death: Death, calls: str, mails: str
) -> None:
    """In a process of its own: join as `node`, answer one doorbell, and die as told."""
    os.environ["TEST_MAILS"] = mails
    os.environ["COLONY_MAX_RESURRECTIONS"] = "1000"
    setattr(workers.slice, StoreJournal.__name__, _mortal(death))
    asyncio.run(_slice(url, node, worker_id, calls))


def _mortal(death: Death) -> type[StoreJournal]:
    """A journal whose process dies around a checkpoint."""
    count = 0

    class Journal(StoreJournal):
        async def append(self, step: Step) -> None:
            nonlocal count
            count += 1
            if count == death.before:
                os._exit(DIED)
            await super().append(step)
            if count == death.after:
                os._exit(DIED)

    return Journal


async def _slice(url: str, node: str, worker_id: str, calls: str) -> None:
    settings = Settings(redis_url=url)
    definitions.CALLS = calls
    context = NodeContext(make_deadly(COLONY), settings, celery_app(COLONY, settings))
    context.hostname, _, context.boot = node.partition("/")
    host = host_of(context)
    await host.store.register(context.face())
    await host.store.beat(node, lease=LEASE, about={"pid": os.getpid()}, join=True)
    await workers.slice.run_slice(host, worker_id)


class SliceProcesses:
    """Runs slices of workers, each in a new process on a node of its own that is dead afterwards."""

    def __init__(self, url: str, calls: Path, mails: Path) -> None:
        self._url, self._calls, self._mails = url, calls, mails
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload([__name__])

    def spawn(self, task: str) -> str:
        """Accept a worker; returns its id."""
        return asyncio.run(self._spawn(task))

    def run(self, worker_id: str, death: Death | None = None) -> bool:
        """Answer one doorbell in a new process; False when the process died, and was rescued."""
        node = f"slice/{secrets.token_hex(4)}"
        args = (self._url, node, worker_id, death or Death(), str(self._calls), str(self._mails))
        process = self._processes.Process(target=run_slice_and_die, args=args)
        process.start()
        process.join(30)
        assert process.exitcode in (0, DIED), f"the slice's process ended with {process.exitcode}"
        if process.exitcode == DIED:
            asyncio.run(self._rescue(node))
        return process.exitcode == 0

    def look(self, worker_id: str) -> tuple[WorkerRecord, list[Part]]:
        """The record and the conversation."""
        return asyncio.run(self._look(worker_id))

    def asked(self) -> int:
        """How often models were asked, by all processes."""
        return len(lines_of(self._calls))

    def effects(self) -> Sequence[str]:
        """What the tools with effects wrote, by all processes."""
        return lines_of(self._mails)

    async def _spawn(self, task: str) -> str:
        link = Link(self._url, patience=PATIENCE)
        try:
            store, worker_id = Store(link, COLONY), new_worker_id()
            context = NodeContext(make_deadly(COLONY), Settings(), celery_app(COLONY, Settings()))
            await store.register({**context.face(), "max_resurrections": 1000})
            fields = new_record(
                worker_id,
                task,
                data={},
                agent=None,
                correlation_id=None,
                stream_id=None,
                priority=0,
            )
            await store.accept([(worker_id, fields)], ring_again_after=AGAIN)
            return worker_id
        finally:
            await link.close()

    async def _rescue(self, node: str) -> None:
        """Let the node's lease run out at once, and take its worker, as a janitor does."""
        link = Link(self._url, patience=PATIENCE)
        try:
            store = Store(link, COLONY)
            await store.beat(node, lease=timedelta(0), about={"pid": 0})
            taken, rings = await store.rescue(node, cap=10, ring_again_after=AGAIN)
            assert (taken, len(rings)) == (1, 1)
        finally:
            await link.close()

    async def _look(self, worker_id: str) -> tuple[WorkerRecord, list[Part]]:
        link = Link(self._url, patience=PATIENCE)
        try:
            store = Store(link, COLONY)
            record = await store.get(worker_id)
            assert record is not None
            return record, await store.conversation(worker_id)
        finally:
            await link.close()


def lines_of(file: Path) -> list[str]:
    """The lines of a file that may not exist yet."""
    return file.read_text().splitlines() if file.exists() else []
