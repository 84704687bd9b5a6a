"""The taker: takes what foreign producers send from the intake queue, has it accepted, and answers.

    take ─▶ read ─▶ accept ─▶ Celery's tracer: result, links, chord ─▶ acknowledge
              │        ├─ refused: the task fails, counted, set aside ─▶ acknowledge
              │        └─ paused, full, Redis in trouble ─▶ put back, pause
              └─ no call: counted, set aside; fails where its id is known ─▶ acknowledge

One message at a time for each node, in a thread of its own: it needs no slot, so work is accepted while the
pool is full, whatever pool it is. What is not acknowledged comes again, on this node or another; the task id
makes that harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from concurrent import futures
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.worker import state as worker_state
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from colony import tracing
from colony.doorbell import INTAKE
from colony.errors import (
    ColonyError,
    FleetFull,
    IntakePaused,
    InvalidTask,
    SpawnRefused,
    StoreUnavailable,
)
from colony.faults import reached
from colony.runtime import ColonyRuntime
from colony.store import Store
from colony.store.link import CONNECTION_LOST
from colony.store.trouble import trouble_of
from workers.coroutine_task import Outcome, replay
from workers.intake.message import Call, Unreadable, read
from workers.intake.queue import IntakeQueue
from workers.intake.tasks import IntakeTask
from workers.loop import Crew
from workers.node.context import NodeContext
from workers.node.role import Role

log = logging.getLogger("colony.intake")

PAUSES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Seconds between tries of a message that must wait."""
KEPT_BYTES = 2000
"""How much is kept of a message that is set aside."""
END_SECONDS = 3.0
"""How long the message under way may take when the node ends."""


class Taker(Role):
    """One round is one message, or a second without one."""

    name = "intake"

    def __init__(self, context: NodeContext, app: Celery) -> None:
        super().__init__(context)
        self._app = app
        self._queue = IntakeQueue(context.colony.name, context.node, context.settings)
        self._runtime: ColonyRuntime | None = None
        self._tracing = Crew("intake-tracer", 1)
        self._tracers: dict[str, Callable[..., Any]] = {}
        self._waits = 0
        self._busy = False

    @property
    def interval(self) -> timedelta:
        return timedelta(0)

    async def round(self, store: Store) -> None:
        """Take and do; leave it when the node ends."""
        if self.context.drain.begun:
            await self._stopping.wait()
            return
        work = asyncio.create_task(self._one(store))
        told = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({work, told}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and self._busy:
                await asyncio.wait({work}, timeout=END_SECONDS)
        finally:
            work.cancel()
            told.cancel()
            await asyncio.gather(work, told, return_exceptions=True)
        if not work.cancelled():
            work.result()

    async def end(self, store: Store) -> None:
        """Leave what is not done to another node."""
        try:
            await self._queue.put_back()
        except (RedisError, *CONNECTION_LOST) as error:
            log.warning("what this node had taken is given back when its lease is over: %s", error)
        await self._queue.close()
        if self._runtime is not None:
            await self._runtime.__aexit__(None, None, None)

    async def _one(self, store: Store) -> None:
        try:
            raw, is_our_turn = await self._queue.take()
            self._busy = raw is not None
            if is_our_turn:
                await self._rescue(store)
            if raw is not None:
                await self._do(store, raw)
                reached("before-acknowledge")
                await self._queue.acknowledge(raw)
            self._waits = 0
        except Exception as error:
            if not passes(error):
                log.exception("taking what producers send failed")
            await self._wait(error)
        finally:
            self._busy = False

    async def _wait(self, error: Exception) -> None:
        """It comes first again, after a pause; meanwhile another node may try."""
        if self._waits % 20 == 0:
            log.warning("what producers send waits in the queue: %s", error)
        pause = PAUSES[min(self._waits, len(PAUSES) - 1)]
        self._waits += 1
        self._busy = False
        with contextlib.suppress(RedisError, *CONNECTION_LOST):
            await self._queue.put_back()
        await asyncio.sleep(pause)

    async def _rescue(self, store: Store) -> None:
        """Put back what dead nodes had taken."""
        if others := await self._queue.takers():
            alive = {node.node for node in await store.nodes() if node.lease_seconds > 0}
            if found := await self._queue.rescue(others - alive):
                log.warning("%d messages that dead nodes had taken are taken again", found)

    async def _do(self, store: Store, raw: bytes) -> None:
        """Accept and answer, or refuse. Raises what passes: then the message is to come again."""
        try:
            await self._handle(store, raw)
        except Exception as error:
            if passes(error):
                raise
            log.exception("what a producer sent could not be answered")
            await self._set_aside(store, f"could not be answered: {error!r}", raw[:KEPT_BYTES])

    async def _handle(self, store: Store, raw: bytes) -> None:
        try:
            call = read(raw, self.context.settings.max_message_bytes)
            task = self._task_of(call)
        except Unreadable as error:
            await self._set_aside(store, str(error), raw[:KEPT_BYTES])
            if error.task_id is not None:
                refused = InvalidTask(str(error))
                await self._blocking(self._app.backend.mark_as_failure, error.task_id, refused)
            return
        if reason := _revoked(call):
            await self._blocking(self._revoke, call, reason)
            return
        outcome = await self._outcome(store, task, call)
        await self._blocking(self._trace, task, call, outcome)

    def _task_of(self, call: Call) -> IntakeTask:
        task = self._app.tasks.get(call.name) if call.name in INTAKE else None
        if not isinstance(task, IntakeTask):
            known = ", ".join(INTAKE)
            raise Unreadable(f"unknown task {call.name!r:.100}; it takes {known}", call.task_id)
        return task

    async def _outcome(self, store: Store, task: IntakeTask, call: Call) -> Outcome:
        try:
            came_with = call.request.get("traceparent")
            with tracing.inherited(came_with if isinstance(came_with, str) else None):
                return Outcome(await task.accept(await self._open_runtime(), call))
        except Exception as error:
            if passes(error):
                raise
            if not isinstance(error, ColonyError):
                log.exception("%s %s failed", call.name, call.task_id)
            arguments = json.dumps([call.args, call.kwargs], default=repr)
            await self._set_aside(store, f"{type(error).__name__}: {error}", arguments)
            return Outcome(error=error)

    async def _open_runtime(self) -> ColonyRuntime:
        if self._runtime is None:
            colony = self.context.colony
            runtime = ColonyRuntime(
                colony.name, settings=self.context.settings, pipeline=colony.pipeline
            )
            self._runtime = await runtime.__aenter__()
        return self._runtime

    async def _set_aside(self, store: Store, reason: str, message: bytes | str) -> None:
        log.warning("refused what a producer sent: %s", reason)
        text = message if isinstance(message, str) else message.decode(errors="replace")
        await store.reject(reason, text, counter="intake_refused")

    # -- on the tracing thread: Celery's own writes block, and go on until Redis is back -------

    async def _blocking(self, call: Callable[..., None], *args: Any) -> None:
        done: futures.Future[None] = futures.Future()

        def work() -> None:
            try:
                call(*args)
            except Exception as error:  # noqa: BLE001 (raised where it is awaited)
                done.set_exception(error)
            else:
                done.set_result(None)

        self._tracing.submit(work)
        await asyncio.wrap_future(done)

    def _trace(self, task: IntakeTask, call: Call, outcome: Outcome) -> None:
        """Celery's own way to store what came of it, to send what is linked, to count a chord's part."""
        request = {**call.request, "hostname": self.context.hostname}
        replay.outcome = outcome
        try:
            traced = self._tracer(task)(call.task_id, call.args, call.kwargs, request)
        finally:
            replay.outcome = None
        if outcome.error is None and isinstance(
            getattr(traced.info, "retval", None), OperationalError
        ):
            raise traced.info.retval  # what is linked could not be sent: once more

    def _tracer(self, task: IntakeTask) -> Callable[..., Any]:
        if task.name not in self._tracers:
            hostname = self.context.hostname
            self._tracers[task.name] = build_tracer(
                task.name, task, self._app.loader, hostname, app=self._app
            )
        return self._tracers[task.name]

    def _revoke(self, call: Call, reason: str) -> None:
        request = Context(call.request)
        self._app.backend.mark_as_revoked(call.task_id, reason, request=request)


def _revoked(call: Call) -> str:
    if call.task_id in worker_state.revoked:
        return "revoked"
    return "expired" if call.expires is not None and call.expires < datetime.now(UTC) else ""


def passes(error: BaseException | None) -> bool:
    """Whether the same message may be accepted, or answered, later."""
    if error is None:
        return False
    passing = (StoreUnavailable, IntakePaused, FleetFull, OperationalError, *CONNECTION_LOST)
    if isinstance(error, passing) or type(error) is SpawnRefused:  # a stage that was lost
        return True
    if isinstance(
        error, ColonyError
    ):  # final, whatever it came from: a stage may raise a TimeoutError
        return False
    if isinstance(error, RedisError) and trouble_of(error, "") is not None:
        return True
    return passes(error.__cause__ or error.__context__)
