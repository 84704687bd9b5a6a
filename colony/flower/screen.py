"""What a task looks like in Flower.

Celery's own fields stay what they are, so that Flower's filters and buttons work: `state` is STARTED from
the first claim to the end, also while a worker is parked or between two nodes, then SUCCESS, FAILURE or
REVOKED. The colony's own state has a column of its own.
"""

from __future__ import annotations

import time
from typing import Any

from celery import states
from celery.events import state as events
from flower.views import tasks as columns

COLUMNS = "name,state,colony,result,runtime,uuid,received,worker"


def install() -> None:
    """Once in Flower's process, before it has heard anything.

    `colony` and `agent_started` become fields of a task: in the table, on its page, in the API and in what is
    kept. A step is no state of its own, in which a task that is stopped later would stay for ever.
    """
    task = events.Task
    for name in ("colony", "agent_started"):
        if name not in task._fields:
            setattr(task, name, None)
            task._fields = (*task._fields, name)
    events.TASK_EVENT_TO_STATE["step"] = states.STARTED
    events.TASK_EVENT_TO_STATE["stopped"] = states.REVOKED
    columns.TASK_COLUMNS["colony"] = "Colony"


def format_task(task: Any) -> Any:
    """A copy of a task, made ready to be shown: its time is the agent's, over all slices and waits."""
    if task.agent_started:
        task.started = task.agent_started
        if task.state == states.STARTED:
            task.runtime = max(0.0, time.time() - task.agent_started)
    task.agent_started = None
    if not task.colony and task.state in (states.RECEIVED, states.STARTED):
        task.colony = "PENDING"
    return task
