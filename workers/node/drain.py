"""The drain: a node that is told to end takes nothing new, and what it runs goes on elsewhere.

    SIGTERM, `colony drain`  ─▶ begin ─▶ calls in flight end ─▶ each worker is handed over at its checkpoint
    drain_grace later                    those still in a call are cut, and handed over at their last one
    SIGQUIT                              the same at once

A drain takes as long as the longest call in flight: a worker that comes to a checkpoint begins no other
call. The hand-over counts as no death. Celery reads a second SIGTERM as the first; what ends a drain
early is SIGQUIT (Celery's cold shutdown), or Ctrl-C for the second time.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import math
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.sharedctypes import RawValue
from types import FrameType
from typing import Any, Final

from celery import Celery, signals
from celery.concurrency.base import BasePool

from workers.loop import Cut, agent_loop
from workers.running import RUNNING
from workers.transport import Transport

log = logging.getLogger("colony.drain")

EXIT_DRAINED: Final = 75
"""The exit code, seen by a supervisor of ours only, of a node that was drained from afar: it is not to be
started again. Everybody else sees 0."""

LOOK_SECONDS = 0.05
CUT_LOOK_SECONDS = 0.5


class Drain:
    """One for a node, shared with the children of a prefork pool (made before the fork)."""

    def __init__(self) -> None:
        self._begun = RawValue(ctypes.c_bool, False)
        self._owner = os.getpid()
        self._look: asyncio.Task[None] | None = None
        self._late: asyncio.Task[None] | None = None
        self._begun_at = self._at_once_at = math.inf
        self.from_afar = False
        """Whether an operator drained this node (`colony drain`), rather than a signal."""
        self.on_begin: Callable[[], None] | None = None
        """Called when it begins, maybe from a signal handler."""

    def has_begun(self) -> bool:
        """`begun`, for who asks later."""
        return self.begun

    @property
    def begun(self) -> bool:
        """Whether nothing new is to be taken."""
        return bool(self._begun.value)

    def begin(self, *, at_once: bool = False) -> None:
        """Take nothing new from now on. From any thread, also from a signal handler; again: nothing."""
        now = time.monotonic()
        self._begun_at = min(self._begun_at, now)
        if at_once:
            self._at_once_at = min(self._at_once_at, now)
        is_first, self._begun.value = not self.begun, True
        if is_first and self.on_begin is not None:
            self.on_begin()

    def over_for(self, grace: float) -> float:
        """Seconds since the node should have ended: the grace is over, or it was told to end at once."""
        return time.monotonic() - min(self._begun_at + grace, self._at_once_at)

    def end_node(self) -> None:
        """An operator drains this node: it ends as if SIGTERM had come. Nothing, if it already does, and
        in a child of a prefork pool."""
        if self.begun or self.from_afar or os.getpid() != self._owner:
            return
        self.from_afar = True
        log.warning("this node is drained by an operator: it hands over and ends")
        os.kill(os.getpid(), signal.SIGTERM)

    async def sleep(self, seconds: float) -> None:
        """Sleep, but not into the drain."""
        loop = asyncio.get_running_loop()
        if self._look is None or self._look.done() or self._look.get_loop() is not loop:
            self._look = loop.create_task(self._until_begun(), name="colony-drain")
        await asyncio.wait({self._look}, timeout=seconds)

    def cut_late(self, grace: float) -> None:
        """From now on: cut what this process still runs so many seconds after the drain has begun. On the
        agent loop, once for each process; for pools that know no grace."""
        self._late = asyncio.create_task(self._cut_late(grace), name="colony-drain-grace")

    async def _cut_late(self, grace: float) -> None:
        while not self.begun:  # noqa: ASYNC110 (as below)
            await asyncio.sleep(CUT_LOOK_SECONDS)
        await asyncio.sleep(grace)
        cut_running()

    async def _until_begun(self) -> None:
        """One look-out for all who sleep; it ends with the drain's begin."""
        while not self.begun:  # noqa: ASYNC110 (set by a signal handler, or in another process)
            await asyncio.sleep(LOOK_SECONDS)


def install(app: Celery, drain: Drain) -> None:
    """Begin the drain when Celery is told to shut down; a draining node takes no message more."""
    app.colony_drain = drain
    Transport.is_closed = lambda: drain.begun

    def at_once(_signum: int, frame: FrameType | None) -> None:
        """Hand over at once, then shut down as after SIGTERM: nothing is left to wait for."""
        drain.begin(at_once=True)
        agent_loop().call_soon_threadsafe(cut_running)
        warm = signal.getsignal(signal.SIGTERM)
        assert callable(warm), "Celery has a handler for SIGTERM"
        warm(signal.SIGTERM, frame)

    def ready(sender: Any, **_: Any) -> None:
        cold = signal.getsignal(signal.SIGQUIT)
        if not _cuts_itself(sender):
            signal.signal(signal.SIGQUIT, at_once)
        elif callable(cold):
            signal.signal(signal.SIGQUIT, partial(begin_at_once, cold))

    def begin_at_once(cold: Callable[..., Any], signum: int, frame: FrameType | None) -> None:
        # Celery says so itself when it is done, and may wait for the broker before.
        drain.begin(at_once=True)
        cold(signum, frame)

    def begin(sig: str = "", **_: Any) -> None:
        drain.begin()
        if sig == "SIGINT" and signal.getsignal(signal.SIGQUIT) is at_once:
            signal.signal(signal.SIGINT, at_once)

    signals.worker_ready.connect(ready, weak=False)
    signals.worker_shutting_down.connect(begin, weak=False)


def cut_running() -> None:
    """Cut every slice of this process: it hands its worker over. On the agent loop."""
    for running in list(RUNNING.values()):
        if running.agent is not None:
            running.agent.cancel(Cut.SHUTDOWN)


def _cuts_itself(consumer: Any) -> bool:
    """Whether Celery's own cold shutdown ends what the pool runs; those of threads raise at it instead."""
    terminate = consumer.pool.terminate_job
    return getattr(terminate, "__func__", None) is not BasePool.terminate_job
