"""The watchdog: ends a node that is alive but deaf, so that its supervisor starts another.

A consumer can lose its way to the broker without an error: a connection whose other end is gone, a
reconnection that forgot its queues, a main thread that hangs. The lease goes on, the node looks
well, and never takes a worker again. So progress is to be proved, by what came through the broker:

    silent        free slots, and for `deaf_after` no answer to any BRPOP (one comes every second,
                  if only "nothing there"), while the broker answers somebody else
    passed over   free slots, and for `deaf_after` no message, while the queue was never seen empty

Not deaf: a node that is full, that drains, whose queue an operator has cancelled, that was stopped
itself (SIGSTOP), or whose broker is away for all: a restart would not help.

It drains, as at SIGTERM, and ends with `EXIT_DEAF`. If the main thread cannot end it, the watchdog
hands over what the node holds and ends the process itself; so it does at the end of any drain, when the main
thread waits for a broker that is cut off and says nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from datetime import timedelta
from typing import Any, Final

from celery.worker import state as celery_state

from colony.doorbell import queue_of
from colony.errors import ColonyError
from colony.store import Link, Store
from workers.node.context import NodeContext
from workers.node.drain import EXIT_DRAINED
from workers.node.role import Role
from workers.pool import AsyncioPool
from workers.transport import Heard, Room

log = logging.getLogger("colony.watchdog")

EXIT_DEAF: Final = 76
"""The exit code of a node that ended itself because it was deaf: start it again."""

LOOK_PATIENCE = timedelta(seconds=2)
STUCK_SECONDS = 5.0
"""How long the end of a node may take beyond `drain_grace`."""


class Watchdog(Role):
    """Looks whether this node hears; `silent_for` and `reason` say what it found."""

    name = "watchdog"

    def __init__(self, context: NodeContext, worker: Any) -> None:
        super().__init__(context)
        self._worker = worker
        self._deaf_after = context.settings.deaf_after.total_seconds()
        self._excused_at = time.monotonic()
        self._looked_at = self._excused_at
        self._away_at = -1.0
        self._answers_since: float | None = None
        self.reason: str | None = None
        """Why this node is deaf, once it is."""

    @property
    def interval(self) -> timedelta:
        return min(timedelta(seconds=1), self.context.settings.deaf_after / 8)

    @property
    def silent_for(self) -> float:
        """Seconds without any answer of the broker to this node, in which one should have come."""
        return time.monotonic() - max(Heard.reply, self._excused_at)

    @property
    def broker_away(self) -> bool:
        """Whether the broker did not answer the last look, nor the consumer since."""
        return self._away_at > Heard.reply

    async def round(self, store: Store) -> None:
        """Find out whether this node is deaf, or does not come to its end; if so, end it."""
        if self._does_not_end():
            await self._end_process(store, EXIT_DRAINED if self.context.drain.from_afar else 0)
        passed_over = time.monotonic() - max(Heard.message, self._excused_at)
        if self._is_excused():
            self._excuse()
        elif max(self.silent_for, passed_over) > self._deaf_after / 2:
            await self._look(store, passed_over)
        else:
            self._answers_since = None

    def _excuse(self) -> None:
        self._excused_at, self._answers_since = time.monotonic(), None

    async def _look(self, store: Store, passed_over: float) -> None:
        """Ask the broker how many messages wait. It must have answered us for half of `deaf_after`."""
        silent = self.silent_for
        asked_at = time.monotonic()
        waiting = await self._messages_waiting()
        if waiting is None:
            self._away_at = asked_at
            self._excuse()
            return
        if waiting == 0 and silent <= self._deaf_after / 2:
            self._excuse()  # there was nothing to hear
            return
        if self._answers_since is None:
            self._answers_since = time.monotonic()
        if asked_at - self._answers_since < self._deaf_after / 2:
            return
        if silent > self._deaf_after:
            await self._end_node(
                store,
                f"no answer to this node's consumer for {silent:.0f} s, while the broker answers others "
                f"({waiting} messages wait)",
            )
        elif waiting and passed_over > self._deaf_after:
            await self._end_node(
                store,
                f"{waiting} messages wait, and for {passed_over:.0f} s none came to this node, which "
                "has free slots",
            )

    async def end(self, store: Store) -> None:
        """The exit code tells why."""
        if self.reason is not None:
            self._worker.exitcode = EXIT_DEAF

    def _does_not_end(self) -> bool:
        """Its drain is over, and the main thread waits for a broker that says nothing. Under other pools than
        ours it may also wait for what cannot be cut, such as a child that a tool blocks."""
        grace = self.context.settings.drain_grace.total_seconds()
        if self.context.drain.over_for(grace) < STUCK_SECONDS:
            return False
        return isinstance(self._worker.pool, AsyncioPool) or not celery_state.active_requests

    def _is_excused(self) -> bool:
        now = time.monotonic()
        slept = now - self._looked_at > self.interval.total_seconds() + self._deaf_after / 4
        self._looked_at = now
        return slept or self.context.drain.begun or self._is_full() or self._has_no_queue()

    def _is_full(self) -> bool:
        """As Celery's consumer counts, when it decides whether to ask for a message."""
        return getattr(self._worker, "pool", None) is None or Room.slots() <= 0

    def _has_no_queue(self) -> bool:
        """An operator has cancelled it (`celery control cancel_consumer`)."""
        consumer = getattr(getattr(self._worker, "consumer", None), "task_consumer", None)
        return consumer is not None and not consumer.queues

    async def _messages_waiting(self) -> int | None:
        """The length of the queue, over a connection of its own; None if the broker is away."""
        link = Link(self.context.settings.queue_url, patience=LOOK_PATIENCE)
        try:
            return int(await link.call("LLEN", queue_of(self.context.colony.name)))
        except ColonyError:
            return None
        finally:
            await link.close()

    async def _end_node(self, store: Store, reason: str) -> None:
        self.reason = reason
        log.critical("this node is deaf and ends, to be started again: %s", reason)
        self.context.drain.begin()
        os.kill(os.getpid(), signal.SIGTERM)
        grace = self.context.settings.drain_grace.total_seconds() + STUCK_SECONDS
        try:
            await asyncio.wait_for(self._stopping.wait(), grace)
        except TimeoutError:
            await self._end_process(store, EXIT_DEAF)

    async def _end_process(self, store: Store, code: int) -> None:
        log.critical(
            "the main thread does not end this node: ended at once, its workers handed over"
        )
        try:
            await asyncio.wait_for(self._worker.colony_heart.hand_over(store), STUCK_SECONDS)
        except Exception as error:  # noqa: BLE001 (whatever it is, this process ends now)
            log.critical("the hand-over failed, its lease will run out: %r", error)
        logging.shutdown()
        os._exit(code)
