"""The agent loop: the one event loop of this process, on a daemon thread of its own.

    prefork child, -P threads, -P solo          AsyncioPool, tools, node
        run(coroutine) ── waits ──┐                   │ agent_loop()
                                  ▼                   ▼
                            thread "agent-loop": uvloop, or asyncio where that is missing

Every coroutine of a node shares it, so one HTTP client or one Redis pool per loop is one per
process. It starts on first use. A forked child gets a fresh one: the parent's is neither closed
nor touched there, because both share its epoll descriptor. Nothing may block this thread.

A coroutine that has to stop early is cancelled with a `Cut`, which it reads with `cut_of(error)`.
"""

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent import futures
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar

from celery.exceptions import SoftTimeLimitExceeded

try:
    from uvloop import new_event_loop
except ImportError:  # optional: asyncio's own loop does the same, more slowly
    from asyncio import new_event_loop  # type: ignore[assignment]

__all__ = ["GRACE_SECONDS", "Crew", "Cut", "agent_loop", "cut_of", "run", "stop_agent_loop"]

T = TypeVar("T")
log = logging.getLogger("colony.loop")

GRACE_SECONDS: Final = 5.0
"""How long a cut coroutine may take to end by itself before nobody waits for it any more."""


LOOK_UP_SECONDS: Final = 1.0
"""How often a waiting thread looks up, so that Python can run the handler of a signal."""


class Cut(StrEnum):
    """Why a coroutine was cancelled: the first argument of its `CancelledError`."""

    SOFT_TIME_LIMIT = "soft_time_limit"
    HARD_TIME_LIMIT = "hard_time_limit"
    TERMINATE = "terminate"
    SHUTDOWN = "shutdown"


def cut_of(error: asyncio.CancelledError) -> Cut | None:
    """The reason given with this cancellation; None when somebody else cancelled (a time-out,
    a task group), in which case the error should travel on."""
    reason = error.args[0] if error.args else None
    return reason if isinstance(reason, Cut) else None


@dataclass(frozen=True, slots=True)
class _Running:
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread


_lock = threading.Lock()
_running: _Running | None = None
_inherited: list[_Running | None] = []  # a parent's loops: kept, so that they are never finalised


def agent_loop() -> asyncio.AbstractEventLoop:
    """This process's agent loop, started if need be. Safe from any thread, and after a fork."""
    running = _running
    return running.loop if running is not None else _start()


def _start() -> asyncio.AbstractEventLoop:
    global _running
    with _lock:
        if _running is None:
            loop = new_event_loop()
            thread = threading.Thread(target=_serve, args=(loop,), name="agent-loop", daemon=True)
            thread.start()
            _running = _Running(loop, thread)
        return _running.loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:
            # asyncio lets these two out of run_forever: one stray exit would end every agent.
            log.critical("ignored %r raised on the agent loop; the loop goes on", error)
        else:
            return


def run(coroutine: Coroutine[Any, Any, T], *, grace: float = GRACE_SECONDS) -> T:
    """Run `coroutine` on the agent loop and wait for it in this thread.

    Whatever is raised in the *waiting* thread meanwhile (Celery's soft time limit, Ctrl-C, an
    exit) cuts the coroutine. It then has `grace` seconds to end by itself: if it returns or
    raises, that is the outcome; else the interrupt is raised. The surprise: a coroutine that
    catches its cancellation thus swallows the interrupt.
    """
    running = _running
    if running is not None and running.thread is threading.current_thread():
        coroutine.close()
        raise RuntimeError("run() would block the agent loop: await the coroutine there instead")
    call: _Call[T] = _Call(coroutine)
    try:
        call.loop.call_soon_threadsafe(call.start)
        while not call.ended:
            # A signal that comes as the wait begins would otherwise be seen only at its end.
            futures.wait([call.outcome], timeout=LOOK_UP_SECONDS)
        return call.outcome.result()
    except BaseException as error:
        if call.ended and call.outcome.exception() is error:
            raise
        return call.cut_short(error, grace)


@dataclass
class _Call(Generic[T]):
    """One coroutine on the loop, with one thread that waits for it."""

    coroutine: Coroutine[Any, Any, T]
    loop: asyncio.AbstractEventLoop = field(default_factory=agent_loop)
    outcome: "futures.Future[T]" = field(default_factory=futures.Future)
    task: "asyncio.Task[T] | None" = None
    cancelled: bool = False

    @property
    def ended(self) -> bool:
        return self.outcome.done()

    def start(self) -> None:
        self.task = self.loop.create_task(self.coroutine)
        self.task.add_done_callback(self._hand_over)

    def _hand_over(self, task: "asyncio.Task[T]") -> None:
        if task.cancelled():
            self.cancelled = True  # asyncio's CancelledError is no Exception: translated here
            self.outcome.set_exception(futures.CancelledError("the coroutine was cancelled"))
        elif (error := task.exception()) is not None:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(task.result())

    def _cancel(self, reason: Cut) -> None:
        if self.task is None:  # interrupted before it was handed to the loop
            self.coroutine.close()
            self.cancelled = True
            self.outcome.set_exception(futures.CancelledError(reason))
        else:
            self.task.cancel(reason)

    def cut_short(self, interrupt: BaseException, grace: float) -> T:
        reason = _reason_for(interrupt)
        self.loop.call_soon_threadsafe(self._cancel, reason)
        futures.wait([self.outcome], timeout=grace)
        if not self.ended:
            log.error("a coroutine ignored its cut (%s) for %.1f s: abandoned", reason, grace)
        if self.cancelled or not self.ended:
            raise interrupt
        return self.outcome.result()


def _reason_for(interrupt: BaseException) -> Cut:
    if isinstance(interrupt, SoftTimeLimitExceeded):
        return Cut.SOFT_TIME_LIMIT
    if isinstance(interrupt, (KeyboardInterrupt, SystemExit)):
        return Cut.SHUTDOWN
    return Cut.TERMINATE


class Crew:
    """Daemon threads that make the calls they are given, oldest first, off the loop.

    A call that raises is logged and ends no thread. Nobody waits for them at exit.
    """

    def __init__(self, name: str, size: int) -> None:
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        names = [f"{name}-{number}" for number in range(size)]
        self.threads = [threading.Thread(target=self._work, name=n, daemon=True) for n in names]
        for thread in self.threads:
            thread.start()

    def submit(self, call: Callable[..., object], *args: object) -> None:
        self._calls.put(partial(call, *args))

    def waiting(self) -> int:
        return self._calls.qsize()

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            try:
                call()
            except Exception:
                log.exception("%s failed", call)
            del call  # nothing of a job outlives it here while the thread is idle


def stop_agent_loop(grace: float = 1.0) -> None:
    """Cut what still runs with `Cut.SHUTDOWN`, wait up to `grace` seconds, end the thread.

    Runs by itself at interpreter exit. The next `agent_loop()` starts a fresh loop.
    """
    global _running
    with _lock:
        running, _running = _running, None
    if running is None:
        return
    if running.thread is threading.current_thread():
        raise RuntimeError("stop_agent_loop() was called on the agent loop itself")
    futures.wait([asyncio.run_coroutine_threadsafe(_cut_all(grace), running.loop)], grace + 1.0)
    running.loop.call_soon_threadsafe(running.loop.stop)
    running.thread.join(1.0)
    if running.thread.is_alive():
        log.error("the agent loop is blocked and was left behind")
        _inherited.append(running)
    else:
        running.loop.close()


async def _cut_all(grace: float) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel(Cut.SHUTDOWN)
    if others:
        await asyncio.wait(others, timeout=grace)


def _forget_parent() -> None:
    global _running, _lock
    _inherited.append(_running)
    _running, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_parent)
atexit.register(stop_agent_loop)
