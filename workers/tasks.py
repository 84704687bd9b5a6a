"""The Celery tasks of a node. A doorbell brings an id; everything else is the store's."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.exceptions import Ignore

from colony.doorbell import JOIN_BATCH, RUN_WORKER, TICK
from colony.faults import reached
from colony.metrics.names import TICKS
from workers.control import StoppingRequest
from workers.coroutine_task import CoroutineTask
from workers.host import host_of
from workers.intake.tasks import intake_tasks
from workers.node.context import NodeContext
from workers.slice import run_slice

MAX_ID = 128


class RunWorker(CoroutineTask):
    """``colony.run_worker(worker_id)``: look at a worker, and run it if it is to be run.

    Returns nothing once the worker is terminal; raises Ignore while it is not, so that a chord does
    not count it: at each hand-over, each park, and of each doorbell that came too late.
    """

    name = RUN_WORKER
    quiet_ignore = True
    Request = StoppingRequest
    acks_late = False
    ignore_result = True
    typing = False

    def __init__(self, context: NodeContext) -> None:
        self.context = context

    async def arun(self, request: Any, *args: Any, **kwargs: Any) -> None:
        """One slice."""
        host = host_of(self.context)
        if (
            kwargs
            or len(args) != 1
            or not isinstance(args[0], str)
            or not 0 < len(args[0]) <= MAX_ID
        ):
            expected = f"{RUN_WORKER} takes one worker id (text of at most {MAX_ID} characters)"
            await host.store.reject(f"{expected}, got other arguments", repr((args, kwargs)))
            raise Ignore(expected)
        ended = await run_slice(host, args[0])
        self.context.children.tell()
        if not ended:
            raise Ignore("the worker has not ended")

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Celery has returned the member's part of its chord."""
        reached("after-part")


class JoinBatch(CoroutineTask):
    """``colony.join_batch(batch_id)``: the body of a batch's chord. Joins the batch if nobody has.

    What it is called with comes from the chord, whatever became of its parts: it looks for itself.
    """

    name = JOIN_BATCH
    acks_late = False
    ignore_result = True
    typing = False

    def __init__(self, context: NodeContext) -> None:
        self.context = context

    async def arun(self, request: Any, *args: Any, **kwargs: Any) -> None:
        """One try; any number of them may be made."""
        host = host_of(self.context)
        ids = [arg for arg in args if isinstance(arg, str) and arg.startswith("b")]
        if len(ids) != 1 or len(ids[0]) > MAX_ID:
            expected = f"{JOIN_BATCH} takes one batch id"
            await host.store.reject(f"{expected}, got other arguments", repr((args, kwargs)))
            raise Ignore(expected)
        reached("before-body")
        await host.join(ids[0])
        reached("after-body")


class Tick(CoroutineTask):
    """``colony.tick()``: a beat says "look at the timers". When, and how often, it comes does not
    matter: what is due is the store's to say. What it is called with is not looked at."""

    name = TICK
    acks_late = False
    ignore_result = True
    send_events = False  # one each second would be all that Flower remembers
    typing = False

    def __init__(self, context: NodeContext) -> None:
        self.context = context

    async def arun(self, request: Any, *args: Any, **kwargs: Any) -> None:
        """One look."""
        TICKS.add()
        host = host_of(self.context)
        await host.look.at_timers()


def register_tasks(app: Celery, context: NodeContext) -> None:
    """Make the node's tasks known to its Celery app."""
    app.register_task(RunWorker(context))
    app.register_task(JoinBatch(context))
    for task in intake_tasks(context.colony.config.max_pending):
        app.register_task(task)
    app.register_task(Tick(context))
