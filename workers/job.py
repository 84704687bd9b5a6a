"""One message in the pool, and what Celery is told about it.

`store_started` to `give_back` may write to Redis and block, so they run on the pool's tracer
threads; `trace` and `give_back` on its plain threads too, for tasks that are no coroutine.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from celery import states
from celery.app.task import Context
from celery.app.trace import ExceptionInfo
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded, Terminated
from celery.worker import state as worker_state

from workers.coroutine_task import Outcome, replay
from workers.loop import Cut

__all__ = [
    "Call",
    "Job",
    "announce_timeout",
    "conclude",
    "give_back",
    "store_started",
    "stores_started",
    "trace",
]

log = logging.getLogger("colony.pool")


class Call(NamedTuple):
    """What Celery asks of the pool for one message."""

    target: Callable[..., tuple[Any, Any, Any]]
    args: tuple[str, str, dict[str, Any], Any, str | None, str | None]
    callback: Callable[..., Any]
    error_callback: Callable[..., Any] | None = None
    accept_callback: Callable[..., Any] | None = None
    timeout_callback: Callable[..., Any] | None = None
    soft: float | None = None
    hard: float | None = None

    @property
    def request(self) -> Any:
        """Celery's worker-side Request, None for a caller that is not a worker."""
        return getattr(self.callback, "__self__", None)


@dataclass(slots=True, eq=False, weakref_slot=True)
class Job:
    """One message in this pool. After its acceptance only the loop changes it."""

    pid: int
    task: Any
    call: Call
    started: float = 0.0
    cut: Cut | None = None
    ended: bool = False
    running: "asyncio.Task[Any] | None" = None
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.call.args[1]

    def terminate(self, signal: Any = None) -> None:
        """Nothing: Celery calls it after `terminate_job`, which has done the work."""

    def announced(self) -> bool:
        """Celery has stored and acknowledged this one as revoked, or is just doing it."""
        request = self.call.request
        return request is not None and request not in worker_state.active_requests


def stores_started(job: Job) -> bool:
    asked = job.call.args[2].get("ignore_result")
    ignored = job.task.ignore_result if asked is None else asked
    return bool(job.task.track_started and not ignored)


def store_started(job: Job) -> None:
    meta = {"pid": os.getpid(), "hostname": job.call.args[2].get("hostname")}
    try:
        if not job.announced():
            context = Context(job.call.args[2])
            job.task.backend.store_result(job.id, meta, states.STARTED, request=context)
    except Exception:
        log.exception("task %s: STARTED was not stored, it runs nevertheless", job.id)


def conclude(job: Job, outcome: Outcome) -> None:
    """Tell Celery what came of the coroutine; what a cut changes is the table in workers.pool."""
    if job.cut is not None:
        log.info("task %s was cut (%s) and ended with %r", job.id, job.cut, outcome)
    if job.cut is Cut.TERMINATE and job.announced():
        return
    if job.cut is Cut.HARD_TIME_LIMIT and not outcome.deliberate:
        announce_timeout(job, False, job.call.hard)
    elif job.cut is Cut.TERMINATE and outcome.cancelled:
        _report_error(job, Terminated("SIGTERM"))
    elif job.cut is Cut.SHUTDOWN and outcome.cancelled:
        if (request := job.call.request) is not None:
            worker_state.task_ready(request)
    elif outcome.cancelled:
        soft = job.cut is Cut.SOFT_TIME_LIMIT
        error = SoftTimeLimitExceeded() if soft else futures.CancelledError("cancelled")
        trace(job, Outcome(error=error))
    elif isinstance(outcome.error, Ignore) and job.task.quiet_ignore and job.call.request:
        _ignore(job.call.request)
    else:
        trace(job, outcome)


def _ignore(request: Any) -> None:
    """What is left of Celery's way with an ignored task when nobody wants to hear of it."""
    worker_state.task_ready(request)
    request.acknowledge()


def trace(job: Job, outcome: Outcome | None) -> None:
    """Celery's tracer, then Celery's callback, with the time that the task really took."""
    replay.outcome = outcome
    try:
        failed, value, _ = job.call.target(*job.call.args)
    except Reject as error:  # out of on_success or after_return
        _report_error(job, error)
        return
    finally:
        replay.outcome = None
    job.call.callback((failed, value, time.monotonic() - job.started))


def _report_error(job: Job, error: Exception) -> None:
    if job.call.error_callback is None:
        return
    try:
        raise error
    except Exception:  # noqa: BLE001 (ExceptionInfo reads the error that is being handled)
        job.call.error_callback(ExceptionInfo())


def announce_timeout(job: Job, soft: bool, limit: float | None) -> None:
    if job.call.timeout_callback is not None:
        job.call.timeout_callback(soft, limit)


def give_back(job: Job) -> None:
    """The tracer could not record the outcome, because Redis is away, say. Celery would keep the
    request as active for ever; a message that is not acknowledged yet returns to the queue."""
    log.exception("task %s: its outcome was not recorded", job.id)
    request = job.call.request
    if request is not None:
        worker_state.task_ready(request)
        try:
            request.reject(requeue=True)
        except Exception:
            log.exception("task %s: its message was not given back either", job.id)
