"""The ear: hears that a worker must stop, and cuts its slice; and that the node is to drain.

The word comes over pub/sub and may be missed; behind it stands a durable flag that every
checkpoint returns, and the store's own patience (`stop_grace`). That of the
drain is read by the heart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from colony.store import Store
from colony.store.listen import listen
from workers.node.drain import Drain
from workers.running import RUNNING

log = logging.getLogger("colony.ear")


class Ear:
    """Listens on the agent loop. The same three verbs as the other roles: start, stop, one round."""

    def __init__(self, store: Store, node: str, drain: Drain) -> None:
        self._store = store
        self._node = node
        self._drain = drain
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen, on the running loop."""
        self._task = asyncio.create_task(self._listen(), name="colony-ear")

    async def stop(self) -> None:
        """Hear no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def round(self, message: str) -> None:
        """One word: ``stop <worker id>`` or ``drain <node>``. Words for others are not ours."""
        verb, _, of = message.partition(" ")
        if verb == "drain" and of == self._node:
            self._drain.end_node()
        running = RUNNING.get(of)
        if verb == "stop" and running is not None:
            log.info("worker %s is told to stop", of)
            running.stop()

    async def _listen(self) -> None:
        async with contextlib.aclosing(
            listen(self._store.link, self._store.keys("hints"))
        ) as heard:
            async for message in heard:
                if message is not None:
                    self.round(message)
