"""The node's Celery pool: thousands of coroutines on one loop under Celery's unmodified tracer.

    main thread      on_apply ─▶ backlog ─▶ slot free? accept ──┐      (early ack, task-started)
    agent loop                       CoroutineTask.arun ◀───────┘ ─▶ outcome
    tracer threads   tracer(run() replays the outcome) ─▶ store, chord, signals, ack ─▶ next accept
    plain threads    tasks that are no CoroutineTask, from accept to ack

Slots, queue and shutdown are here; what runs on the agent loop is in `workers.coroutines`, the
tracer's side in `workers.job`, the task and its replay in `workers.coroutine_task`.

The tracer cannot await, so the coroutine runs first and `CoroutineTask.run` then returns or raises
what came of it. Blocking writes stay off the loop. The surprise: `task_prerun`, `before_start`
and the tracer's own log line ("succeeded in") come after the coroutine; `self.request` and
`self.retry` are the tracer thread's, so the coroutine is handed its request instead. An Ignore of a
task that is `quiet_ignore` (a worker handed over, or parked) does without the tracer.

CPU per task, 1,000 at concurrency 1,000, measured on two cores: no-op 1.3 ms here, 1.3 with the
tracer in a greenlet, 1.1 with -P threads; sleeping 1 s 1.2, 1.1 and 3.4 ms, 69, 78 and 175 MB.
10,000 waiting: 180 MB. The greenlet costs the same, but its tracer's writes would block the loop.
Two to eight tracer threads make no difference, one is slower.

What ends a coroutine early: it is cancelled with a `Cut`. What it then returns, or raises as
Ignore, Reject or Retry, is its outcome, as if it had not been cut. Otherwise

    soft_time_limit  SoftTimeLimitExceeded, or its own error; may run on until the hard limit
    hard_time_limit  TimeLimitExceeded through Celery's timeout_callback
    terminate        revoked; nothing at all where Celery has announced it as revoked already
    shutdown         nothing: a message not acknowledged goes back to the broker. An outcome that was
                     deliberate is stored after Celery's own RETRY, never before it

Except for the soft limit, a coroutine that has not ended a grace (5 s) later is abandoned.
Settings, all optional: `colony_cut_grace_seconds`, `colony_tracer_threads`, `colony_plain_threads`.
Plain tasks have no time limits and cannot be terminated, like those of Celery's threads pool.
"""

import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final

from celery import signals
from celery.concurrency.base import BasePool
from celery.utils import log as celery_log
from celery.worker import state as worker_state
from kombu.serialization import prepare_accept_content

from workers.coroutine_task import CoroutineTask, Outcome, grace_of
from workers.coroutines import Coroutines
from workers.job import Call, Job, conclude, give_back, store_started, stores_started, trace
from workers.loop import Crew, Cut, agent_loop

__all__ = ["AsyncioPool"]

log = logging.getLogger("colony.pool")

TRACER_THREADS: Final = 3
PLAIN_THREADS: Final = 8


class AsyncioPool(BasePool):  # type: ignore[misc]
    """Celery pool on the agent loop; see the module's docstring. `worker_concurrency` bounds the
    coroutines, also with early acknowledgement: what is beyond waits here, not yet accepted."""

    body_can_be_buffer = True
    signal_safe = False
    task_join_will_block = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Only operations that are atomic in C, and no lock: a signal handler on the main thread
        # may enter the pool while on_apply is in it.
        self._jobs: dict[int, Job] = {}  # strong references: a Request keeps a weak one
        self._backlog: deque[Job] = deque()
        self._slots: SimpleQueue[None] = SimpleQueue()
        self._owed: deque[None] = deque()  # slots that shrink() takes when they come back
        self._pids = itertools.count(1)
        self._plain: Crew | None = None
        self._hub: Any = None
        self._waking = False

    def register_with_event_loop(self, loop: Any) -> None:
        """Celery hands over the hub of its main thread, again after each reconnect."""
        self._hub, self._waking = loop, False

    def on_start(self) -> None:
        conf = self.app.conf
        accept = prepare_accept_content(conf.accept_content)
        self._grace = grace_of(self.app)
        self._loop = agent_loop()
        self._tracers = Crew("tracer", int(conf.get("colony_tracer_threads", TRACER_THREADS)))
        self._coroutines = Coroutines(
            self._loop,
            self._tracers,
            self._record,
            grace=self._grace,
            accept=accept,
        )
        self._release(self.limit)
        signals.worker_process_init.send(sender=None)

    # ---- admission: main thread, or the tracer thread that has just freed a slot

    def on_apply(
        self,
        target: Callable[..., Any],
        args: Any = None,
        kwargs: Any = None,
        callback: Any = None,
        accept_callback: Any = None,
        timeout_callback: Any = None,
        error_callback: Any = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> Job:
        """Begin this job if a slot is free, else queue it. Never waits."""
        soft = soft_timeout or self.options.get("soft_timeout")
        hard = timeout or self.options.get("timeout")
        call = Call(
            target, args, callback, error_callback, accept_callback, timeout_callback, soft, hard
        )
        job = Job(next(self._pids), self.app.tasks[args[0]], call)
        self._jobs[job.pid] = job
        if isinstance(job.task, CoroutineTask):
            self._backlog.append(job)
            self._pump()
        else:
            self._plain_crew().submit(self._run_plain, job)
        return job

    def _pump(self) -> None:
        """Begin queued jobs while there are slots. Called after every change of either."""
        while (job := self._next()) is not None:
            if not self._admit(job):
                self._jobs.pop(job.pid, None)
                self._release(1)
            elif stores_started(job):
                self._tracers.submit(self._store_started, job)
            else:
                self._loop.call_soon_threadsafe(self._coroutines.launch, job)

    def _next(self) -> Job | None:
        """The oldest queued job together with a slot for it."""
        while self._backlog:
            try:
                self._slots.get_nowait()
            except Empty:
                return None
            try:
                return self._backlog.popleft()
            except IndexError:  # another thread was faster
                self._slots.put(None)
        return None

    def _admit(self, job: Job) -> bool:
        """Accept the job, unless it was revoked or has expired while it was queued."""
        request = job.call.request
        try:
            if request is not None and request.revoked():
                return False
            job.started = time.monotonic()
            if job.call.accept_callback is not None:
                job.call.accept_callback(job.pid, job.started)
        except Exception:  # as Celery's own pools: a callback that fails does not stop the task
            log.exception("task %s: accepting it failed, it runs nevertheless", job.id)
        return True

    def _store_started(self, job: Job) -> None:
        store_started(job)
        self._loop.call_soon_threadsafe(self._coroutines.launch, job)

    # ---- the outcome: tracer threads

    def _record(self, job: Job, outcome: Outcome) -> None:
        try:
            conclude(job, outcome)
        except BaseException:  # noqa: BLE001 (thread boundary: give_back logs it)
            give_back(job)
        finally:
            self._finish(job)

    def _finish(self, job: Job) -> None:
        self._jobs.pop(job.pid, None)
        full = self._slots.empty()
        self._release(1)
        self._pump()
        if full and self._hub is not None and not self._waking:
            # With worker_disable_prefetch the consumer looks for room when the hub turns; nothing
            # else turns it at the end of a task acknowledged early, and slots lay idle up to 1 s.
            self._waking = True
            self._hub.call_soon(self._woken)

    def _woken(self) -> None:
        self._waking = False

    def _release(self, slots: int) -> None:
        for _ in range(slots):
            try:
                self._owed.pop()
            except IndexError:
                self._slots.put(None)

    # ---- tasks that are no coroutine: plain threads

    def _plain_crew(self) -> Crew:
        if self._plain is None:
            threads = self.app.conf.get("colony_plain_threads", PLAIN_THREADS)
            self._plain = Crew("plain", int(threads))
        return self._plain

    def _run_plain(self, job: Job) -> None:
        try:
            if not _cold() and self._admit(job):
                trace(job, None)
        except BaseException:  # noqa: BLE001 (thread boundary: give_back logs it)
            give_back(job)
        finally:
            self._jobs.pop(job.pid, None)

    # ---- what the worker asks for

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        """Cut one job. The reason is `Cut.SHUTDOWN` in a cold shutdown, else `Cut.TERMINATE`."""
        job = self._jobs.get(pid)
        if job is None:
            log.info("nothing to terminate: job %s has ended", pid)
        elif not isinstance(job.task, CoroutineTask):
            log.warning("task %s is no CoroutineTask: it runs on, a thread cannot be cut", job.id)
        else:
            # Celery's cold shutdown cancels from its signal handler; a revoke never comes there.
            cold = celery_log._in_sighandler or _cold()
            reason = Cut.SHUTDOWN if cold else Cut.TERMINATE
            self._loop.call_soon_threadsafe(self._coroutines.cut, job, reason)

    def on_stop(self) -> None:
        """Warm: wait for every job, the queued ones too, as long as `colony_drain_grace_seconds` (for
        ever where it is not set). After that, and in a cold shutdown: cut. The node's drain begins,
        if it has not: not every way to shut a worker down comes with a signal."""
        if (drain := getattr(self.app, "colony_drain", None)) is not None:
            drain.begin()
        grace = self.app.conf.get("colony_drain_grace_seconds", math.inf)
        deadline = time.monotonic() + grace
        while self._jobs and not _cold() and time.monotonic() < deadline:
            time.sleep(0.02)
        self.on_terminate()

    def on_terminate(self) -> None:
        """Drop what is queued, cut what runs, wait no longer than the grace. Celery's handler of a cold
        shutdown, which cuts and announces, has ended before."""
        self._loop.call_soon_threadsafe(self._coroutines.release)
        while self._backlog:
            self._jobs.pop(self._backlog.popleft().pid, None)
        for job in list(self._jobs.values()):
            if isinstance(job.task, CoroutineTask):
                self._loop.call_soon_threadsafe(self._coroutines.cut, job, Cut.SHUTDOWN)
        deadline = time.monotonic() + self._grace + 1.0
        while self._jobs and time.monotonic() < deadline:
            time.sleep(0.02)
        if self._jobs:
            log.error("left behind: tasks %s", [job.id for job in list(self._jobs.values())])

    def grow(self, n: int = 1) -> None:
        self.limit += n
        self._release(n)
        self._pump()

    def shrink(self, n: int = 1) -> None:
        """Takes free slots at once, the others when their coroutines end; one always stays."""
        n = min(n, self.limit - 1)
        self.limit -= n
        for _ in range(n):
            try:
                self._slots.get_nowait()
            except Empty:
                self._owed.append(None)

    def _get_info(self) -> dict[str, Any]:
        jobs, backlog = list(self._jobs.values()), len(self._backlog)
        plain = sum(not isinstance(job.task, CoroutineTask) for job in jobs)
        return {
            **super()._get_info(),
            "running": len(jobs) - backlog - plain,
            "backlog": backlog,
            "plain": plain,
            "outcomes-waiting": self._tracers.waiting(),
            "threads": {
                "tracer": len(self._tracers.threads),
                "plain": len(self._plain.threads) if self._plain else 0,
            },
            "loop": type(self._loop).__module__,
        }


def _cold() -> bool:
    return worker_state.should_terminate not in (None, False)
