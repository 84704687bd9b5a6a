"""A Celery task whose body is a coroutine, and what came of one: an `Outcome`.

Under `AsyncioPool` the coroutine has ended before Celery's tracer calls `CoroutineTask.run`. Its
outcome waits in the tracer thread's `replay`, and `run` returns or raises it. Under Celery's own
pools nothing waits there, and `run` runs the coroutine on the agent loop itself.
"""

import asyncio
import threading
import traceback
from typing import Any, ClassVar, Final, NamedTuple

from celery import Task
from celery.exceptions import TaskPredicate, WorkerLostError

from workers.loop import GRACE_SECONDS, run

__all__ = ["CoroutineTask", "Outcome", "grace_of", "replay"]


class Outcome(NamedTuple):
    """What came of a coroutine: a value, or the error it ended with."""

    value: Any = None
    error: BaseException | None = None

    @property
    def cancelled(self) -> bool:
        return isinstance(self.error, asyncio.CancelledError)

    @property
    def deliberate(self) -> bool:
        """It returned, or told Celery what to do with it (Ignore, Reject, Retry)."""
        return self.error is None or isinstance(self.error, TaskPredicate)


replay: Final = threading.local()
"""Its `outcome` is what the next `CoroutineTask.run` in this thread returns or raises, once."""


def grace_of(app: Any) -> float:
    """How long a cut coroutine of this app may take to end, in seconds."""
    return float(app.conf.get("colony_cut_grace_seconds", GRACE_SECONDS))


class CoroutineTask(Task):  # type: ignore[misc]
    """A task whose body is `async def arun`. It runs under every pool: on the agent loop under
    `AsyncioPool`, elsewhere with a thread or process that waits for it."""

    quiet_ignore: ClassVar[bool] = False
    """Whether an Ignore of this task is no business of Celery's tracer (under `AsyncioPool`). That formats
    two tracebacks for a line in its log, 2 ms of a core, and sends `task_prerun` and `task_postrun`."""

    async def arun(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """The body. `request` is this call's `celery.app.task.Context`: id, headers, chord …
        Cancelled with a `Cut`; what it returns then is still its result."""
        raise NotImplementedError(f"{type(self).__name__} must define 'async def arun'")

    def run(self, *args: Any, **kwargs: Any) -> Any:
        outcome: Outcome | None = replay.__dict__.pop("outcome", None)
        try:
            if outcome is None:
                return run(self.contained(self.request, args, kwargs), grace=grace_of(self.app))
            if outcome.error is None:
                return outcome.value
            raise outcome.error
        except Exception as error:  # noqa: BLE001 (re-raised, bare)
            raise _without_frames(error)  # noqa: B904 (its traceback is its cause, as text)

    async def contained(self, request: Any, args: Any, kwargs: Any) -> Any:
        """`arun`, except that an exit ends the task and not the loop that everybody shares."""
        try:
            return await self.arun(request, *args, **kwargs)
        except (SystemExit, KeyboardInterrupt) as error:
            raise WorkerLostError(f"the task tried to end the process: {error!r}") from error


class CoroutineTraceback(Exception):
    """The cause given to an error that left a coroutine: where it was raised, as text."""


def _without_frames(error: Exception) -> Exception:
    """The tracer clears every frame of an error's traceback, which would close coroutines that it
    passed and that still live: it gets the text instead."""
    if not isinstance(error, TaskPredicate):
        error.__cause__ = CoroutineTraceback("\n" + "".join(traceback.format_exception(error)))
    return error.with_traceback(None)
