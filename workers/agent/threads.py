"""A pool of our own for synchronous tools: sized, of daemon threads, and proof against hung ones.

asyncio's default pool has few threads (six on two cores), and one tool that never returns takes one
of them for good. Here a call that is given up frees its place: its thread may finish whenever it
likes, then ends, and another takes over at once.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Job:
    """One call. `outcome` is (value, None) or (None, error): futures refuse some exceptions."""

    function: Callable[[], Any]
    outcome: asyncio.Future[tuple[Any, BaseException | None]]
    loop: asyncio.AbstractEventLoop
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    started_at: float | None = None
    finished: bool = False
    given_up: bool = False

    def run(self) -> None:
        result: tuple[Any, BaseException | None]
        try:
            result = (self.context.run(self.function), None)
        except BaseException as error:  # noqa: BLE001 - carried to the caller, SystemExit too
            result = (None, error)
        if not self.given_up:
            try:
                self.loop.call_soon_threadsafe(self._deliver, result)
            except RuntimeError:
                logger.debug("the event loop of a tool call has closed; its result is dropped")

    def _deliver(self, result: tuple[Any, BaseException | None]) -> None:
        if not self.outcome.done():
            self.outcome.set_result(result)


class GivenUp(TimeoutError):
    """A call took longer than it may; what it still does is nobody's any more."""


class ToolThreads:
    """At most `size` working threads, begun when needed. Serves any number of event loops."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"tool_threads must be at least 1, got {size}")
        self._size = size
        self._lock = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._threads = 0
        self._idle = 0
        self._hung = 0
        self._closed = False

    @property
    def hung(self) -> int:
        """Threads that are still in a call that was given up."""
        return self._hung

    async def run(self, function: Callable[[], Any], *, timeout: float) -> Any:
        """Call `function` in a thread, with the caller's context variables, and return its result.

        `timeout` counts seconds from when a thread takes the call. Raises `GivenUp` when they are
        over, and what the function raised. A cancelled caller gives its call up: if it has not
        begun it never does, else its thread is replaced.
        """
        loop = asyncio.get_running_loop()
        job = _Job(function, loop.create_future(), loop)
        self._submit(job)
        try:
            while not job.outcome.done():
                began = job.started_at
                left = timeout if began is None else began + timeout - time.monotonic()
                if left <= 0:
                    raise GivenUp
                await asyncio.wait({job.outcome}, timeout=left)
        finally:
            if not job.outcome.done():
                self._give_up(job)
        value, error = job.outcome.result()
        if error is not None:
            raise error
        return value

    def close(self) -> None:
        """Take no more calls. Threads end when nothing is left; none keeps the process alive."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()

    def _submit(self, job: _Job) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("the tool threads are closed: the node is shutting down")
            self._waiting.append(job)
            if self._idle >= len(self._waiting):
                self._lock.notify()
            else:
                self._begin_thread()

    def _begin_thread(self) -> None:
        if self._threads < self._size:
            threading.Thread(target=self._work, name="colony-tool", daemon=True).start()
            self._threads += 1

    def _give_up(self, job: _Job) -> None:
        with self._lock:
            job.given_up = True
            if job.started_at is None:
                self._waiting.remove(job)
                return
            if job.finished:  # its result is on the way, to a caller who is gone
                return
            self._threads -= 1
            self._hung += 1
            if self._waiting:
                self._begin_thread()
        logger.warning(
            "a synchronous tool did not return in time; its thread was replaced (%d hang now)",
            self._hung,
        )

    def _work(self) -> None:
        while (job := self._next()) is not None:
            job.run()
            with self._lock:
                job.finished = True
                if job.given_up:
                    self._hung -= 1
                    return

    def _next(self) -> _Job | None:
        with self._lock:
            while not self._waiting:
                if self._closed:
                    self._threads -= 1
                    return None
                self._idle += 1
                self._lock.wait()
                self._idle -= 1
            job = self._waiting.popleft()
            job.started_at = time.monotonic()
            return job
