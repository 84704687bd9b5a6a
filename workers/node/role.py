"""A background role: start, stop, one round. Reading one is reading all."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import sys
import threading
import time
from datetime import timedelta
from typing import ClassVar

from colony.errors import StoreUnavailable
from colony.metrics.names import ROUNDS_FAILED
from colony.store import Store
from workers.node.context import NodeContext

log = logging.getLogger("colony.node")

PATIENCE = timedelta(seconds=1)
COMPLAIN_SECONDS = 5.0
"""How often a role says that the store is not available."""
PR_SET_NAME = 15
"""prctl(2)."""


class Role:
    """A thread with an event loop and a connection of its own that does rounds until it is stopped.

    A round that fails is logged and the next one comes: a role never dies of one bad answer.
    """

    name: ClassVar[str]

    def __init__(self, context: NodeContext) -> None:
        self.context = context
        self._thread = threading.Thread(target=self._main, name=f"colony-{self.name}", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._ready = threading.Event()
        self._failure: Exception | None = None
        self._complained_at = -COMPLAIN_SECONDS
        for why in ("error", "redis_away"):  # a rise from nothing is none to Prometheus
            ROUNDS_FAILED.add(self.name, why, by=0)

    @property
    def interval(self) -> timedelta:
        """From the start of one round to the start of the next."""
        raise NotImplementedError

    async def begin(self, store: Store) -> None:
        """Once, before the first round. What it raises is raised by `start`."""

    async def round(self, store: Store) -> None:
        """Do what is to be done now."""
        raise NotImplementedError

    async def end(self, store: Store) -> None:
        """Once, after the last round."""

    def start(self) -> None:
        """Begin; returns when `begin` has succeeded, raises what it raised."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End after the round that is under way."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(timeout=10)

    def _main(self) -> None:
        _tell_kernel(self._thread.name)
        asyncio.run(self._rounds())

    async def _rounds(self) -> None:
        self._loop = asyncio.get_running_loop()
        store = self.context.open_store(patience=PATIENCE)
        try:
            try:
                await self.begin(store)
            except Exception as error:  # noqa: BLE001 (raised by `start`, in its thread)
                self._failure = error
                return
            finally:
                self._ready.set()
            while not self._stopping.is_set():
                await self._one_round(store)
            await self._attempt(self.end(store))
        finally:
            await store.link.close()

    async def _one_round(self, store: Store) -> None:
        assert self._loop is not None
        began = self._loop.time()
        await self._attempt(self.round(store))
        pause = self.interval.total_seconds() - (self._loop.time() - began)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, pause)):
                await self._stopping.wait()

    async def _attempt(self, work: object) -> None:
        try:
            await work  # type: ignore[misc]
        except StoreUnavailable as error:
            ROUNDS_FAILED.add(self.name, "redis_away")
            if time.monotonic() - self._complained_at > COMPLAIN_SECONDS:
                self._complained_at = time.monotonic()
                log.warning("%s: %s", self.name, error)
        except Exception:
            ROUNDS_FAILED.add(self.name, "error")
            log.exception("%s: a round failed, the next one comes", self.name)


def _tell_kernel(name: str) -> None:
    """The name of this thread (Linux; its first 15 bytes), which Python before 3.14 does not tell: `top -H`
    and the benchmark then say what each role costs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)
