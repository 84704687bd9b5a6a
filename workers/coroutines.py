"""The pool's coroutines, from launch to end. All but the constructor is called on the agent loop."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from celery.app.task import Context
from kombu.serialization import loads

from workers.coroutine_task import Outcome
from workers.job import Job, announce_timeout
from workers.loop import Crew, Cut

__all__ = ["Coroutines"]

log = logging.getLogger("colony.pool")

ANNOUNCE_SECONDS: Final = 0.1
"""How long after a terminated coroutine's end its outcome is looked at: Celery announces the
revocation on its main thread, right after it has called `terminate_job`."""


class Coroutines:
    """Launches coroutines, cuts them, and gives each outcome to `record` on a tracer thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tracers: Crew,
        record: Callable[[Job, Outcome], None],
        *,
        grace: float,
        accept: Any,
    ) -> None:
        self._loop = loop
        self._tracers = tracers
        self._record = record
        self._grace = grace
        self._accept = accept
        self._held: list[tuple[Job, Outcome]] | None = []

    def launch(self, job: Job) -> None:
        if job.cut is not None:  # before it began
            self._end(job, Outcome(error=asyncio.CancelledError(job.cut)))
            return
        try:
            body = self._body(job)
        except Exception as error:  # noqa: BLE001 (it becomes the task's outcome)
            self._end(job, Outcome(error=error))
            return
        job.running = self._loop.create_task(body, name=job.id)
        job.running.add_done_callback(partial(self._on_done, job))
        limits = (job.call.soft, Cut.SOFT_TIME_LIMIT), (job.call.hard, Cut.HARD_TIME_LIMIT)
        job.timers += [self._loop.call_later(s, self.cut, job, cut) for s, cut in limits if s]

    def _body(self, job: Job) -> Coroutine[Any, Any, Any]:
        _, _, message, body, content_type, encoding = job.call.args
        if content_type:
            body = loads(body, content_type, encoding, accept=self._accept)
        args, kwargs, embed = body
        own = {"args": args, "kwargs": kwargs, "is_eager": False, "called_directly": False}
        request = Context(message, **{**(embed or {}), **own})
        coroutine: Coroutine[Any, Any, Any] = job.task.contained(request, args, kwargs)
        return coroutine

    def cut(self, job: Job, reason: Cut) -> None:
        """Cancel the coroutine, once; only a soft limit may be followed by another reason."""
        if job.ended or job.cut not in (None, Cut.SOFT_TIME_LIMIT) or job.cut is reason:
            return
        job.cut = reason
        if reason is Cut.SOFT_TIME_LIMIT:
            self._tracers.submit(announce_timeout, job, True, job.call.soft)
        else:
            job.timers.append(self._loop.call_later(self._grace, self._abandon, job))
        if job.running is not None:
            job.running.cancel(reason)

    def release(self) -> None:
        """Celery has announced what it cancelled: record the outcomes that waited for that."""
        held, self._held = self._held or [], None
        for job, outcome in held:
            self._tracers.submit(self._record, job, outcome)

    def _abandon(self, job: Job) -> None:
        if not job.ended:
            message = "task %s ignores its cut (%s) for %s s: abandoned"
            log.error(message, job.id, job.cut, self._grace)
            self._end(job, Outcome(error=asyncio.CancelledError(job.cut)))

    def _on_done(self, job: Job, ended: "asyncio.Task[Any]") -> None:
        if ended.cancelled():
            outcome = Outcome(error=asyncio.CancelledError(job.cut))
        elif (error := ended.exception()) is not None:
            outcome = Outcome(error=error)
        else:
            outcome = Outcome(ended.result())
        if job.ended:
            log.warning("task %s, abandoned, has ended at last: %r", job.id, outcome)
        else:
            self._end(job, outcome)

    def _end(self, job: Job, outcome: Outcome) -> None:
        job.ended = True
        for timer in job.timers:
            timer.cancel()
        if job.cut is Cut.TERMINATE:
            self._loop.call_later(
                ANNOUNCE_SECONDS, self._tracers.submit, self._record, job, outcome
            )
        elif job.cut is Cut.SHUTDOWN and self._held is not None:
            # Celery stores RETRY for each task that it cancels, after it has read that there is no
            # SUCCESS: one stored in between would be overwritten.
            self._held.append((job, outcome))
        else:
            self._tracers.submit(self._record, job, outcome)
