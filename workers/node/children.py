"""What the children of a prefork pool count is told to the node that forked them: nobody scrapes a child.

    child   a slice counts ─▶ its own numbers ── each second, and at a slice's end ──▶ pipe
    node    its own numbers ◀── a line for each series that has grown: by how much ──┘

A line is written whole or, while the node does not read, not at all and with the next. Of a child that
is killed the last second is not counted.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading

from colony.metrics.instruments import COUNTERS, HISTOGRAMS, Counter, Histogram

TELL_SECONDS = 1.0
END = b"\n"


class Children:
    """Made by the node before it forks: `start` and `stop` there, `follow` and `tell` in each child. `pool`:
    the class of the node's pool, before `start`."""

    def __init__(self) -> None:
        self.pool: type = object
        self._node = 0
        self._pipe: int | None = None
        self._reader: threading.Thread | None = None
        self._teller: asyncio.Task[None] | None = None

    @property
    def forked(self) -> bool:
        """Whether slices run in children."""
        return self._pipe is not None

    def start(self) -> None:
        """Listen, where the pool forks."""
        # A megabyte that other pools do without: where the pool is prefork's it has been imported.
        prefork = sys.modules.get("celery.concurrency.prefork")
        if prefork is not None and issubclass(self.pool, prefork.TaskPool):
            self._node = os.getpid()
            heard, self._pipe = os.pipe()
            os.set_blocking(self._pipe, False)
            self._reader = threading.Thread(
                target=_add_what_comes, args=(heard,), name="colony-children", daemon=True
            )
            self._reader.start()

    def stop(self) -> None:
        """Add what was told, and listen no more."""
        if self._pipe is not None and self._reader is not None:
            os.set_blocking(self._pipe, True)
            os.write(self._pipe, END)
            self._reader.join(timeout=5)

    def follow(self) -> None:
        """In a child, on its agent loop before its first slice: tell from now on. Elsewhere nothing."""
        if self._in_child:
            for instrument in _instruments():
                instrument.take()  # the node's, from before the fork
            self._teller = asyncio.create_task(self._tell_on(), name="colony-children")

    def tell(self) -> None:
        """In a child, on its agent loop: tell what has been counted since. Elsewhere nothing."""
        if self._pipe is None or not self._in_child:
            return
        for instrument in _instruments():
            for labels, grown in instrument.take():
                line = json.dumps([instrument.name, labels, grown])
                try:
                    os.write(self._pipe, line.encode() + b"\n")
                except (BlockingIOError, BrokenPipeError):  # the node is busy, or gone
                    instrument.put(labels, grown)

    @property
    def _in_child(self) -> bool:
        return self._pipe is not None and os.getpid() != self._node

    async def _tell_on(self) -> None:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            self.tell()


def _instruments() -> list[Counter | Histogram]:
    return [*COUNTERS, *HISTOGRAMS]


def _add_what_comes(pipe: int) -> None:
    named = {instrument.name: instrument for instrument in _instruments()}
    with os.fdopen(pipe, "rb") as lines:
        for line in iter(lines.readline, END):
            name, labels, grown = json.loads(line)
            named[name].put(tuple(labels), grown)
