"""What ends a task from outside, turned into stops of the store: revoke and terminate, from Celery's tools
and Flower's button, and Celery's hard time limit.

Celery would mark the task revoked and remember the id for hours, so that each later doorbell of
that worker were thrown away, and a chord would never join. Here the store settles the worker, and
no memory of a revoke is kept. Ids that are no workers of this colony go Celery's own way.

A hard time limit kills the child of a prefork pool, which would look like a death, or like a hand-over
where the child still hears it, and be tried for ever: the worker is settled as timeout.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from celery import signals
from celery.utils.functional import maybe_list
from celery.worker import control as celery_control
from celery.worker.control import control_command, ok
from celery.worker.request import Request

from colony.models import ReportStatus
from colony.store import Stopped
from colony.store.link import safe_url
from workers.host import Host, host_of
from workers.loop import agent_loop, run
from workers.node.context import NodeContext

log = logging.getLogger("colony.control")

_celery_revoke = celery_control.revoke


def _hide_password(conf: Any, **_: Any) -> None:
    """A node has no use for the URL of a beat's schedule."""
    conf.redbeat_redis_url = safe_url(conf.redbeat_redis_url)


def install(context: NodeContext) -> None:
    """Replace Celery's `revoke` and `terminate` commands in this process, and let its `conf` command,
    which Flower shows, tell no password: Celery knows those of its own settings, not RedBeat's."""
    signals.celeryd_init.connect(_hide_password, weak=False)

    @control_command(  # type: ignore[untyped-decorator]
        name="revoke", variadic="task_id", signature="[id1 [id2 [... [idN]]]]"
    )
    def revoke(
        state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **kwargs: Any
    ) -> Any:
        """Stop workers by id; other tasks are revoked as Celery does it."""
        ids = [str(each) for each in maybe_list(task_id) or []]
        others = run(_stop_workers(context, ids))
        if others:
            return _celery_revoke(state, others, terminate=terminate, signal=signal, **kwargs)
        return ok(f"workers {ids} were told to stop")

    @control_command(  # type: ignore[untyped-decorator]
        name="terminate",
        variadic="task_id",
        args=[("signal", str)],
        signature="<signal> [id1 [id2 [... [idN]]]]",
    )
    def terminate(state: Any, signal: Any, task_id: Any, **kwargs: Any) -> Any:
        """The same with a signal, which workers do not need."""
        return revoke(state, task_id, terminate=True, signal=signal)


class StoppingRequest(Request):  # type: ignore[misc]
    """Celery's request of a doorbell, whose worker is settled when its hard time limit has passed.

    How a slice has ended is not told to Flower: how its worker ended is (`workers.showing`).
    """

    def send_event(self, type: str, **fields: Any) -> None:
        """Celery's events, except for those (a failure would bring a traceback, with what it names)."""
        if type not in ("task-succeeded", "task-failed"):
            super().send_event(type, **fields)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """The hard limit ends the worker, if its slice has not done so. Called in any thread; never waits."""
        if not soft:
            ending = _end_late(self.task.context, self.id)
            asyncio.run_coroutine_threadsafe(ending, agent_loop())
        super().on_timeout(soft, timeout)


async def _end_late(context: NodeContext, worker_id: str) -> None:
    await host_of(context).store.stop(
        worker_id,
        status=ReportStatus.TIMEOUT,
        reason="Worker exceeded its hard time limit.",
        grace=timedelta(0),
    )


async def _stop_workers(context: NodeContext, ids: Iterable[str]) -> list[str]:
    """Stop those that are workers; returns the others. Every node gets the command: a stop may come twice."""
    host: Host = host_of(context)
    others = []
    for task_id in ids:
        verdict = await host.store.stop(
            task_id,
            status=ReportStatus.STOPPED,
            reason="Worker was revoked.",
            grace=context.settings.stop_grace,
        )
        if verdict is Stopped.UNKNOWN:
            others.append(task_id)
        else:
            log.info("revoke of worker %s: %s", task_id, verdict)
    return others
