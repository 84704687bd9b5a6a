"""A stock-looking Celery app for the pool tests; `celery -A pool_app worker` runs it.

`POOL_REDIS` is its broker and backend, `POOL_CONF` a JSON object of further settings.
"""

import asyncio
import json
import os
import threading
import time
from functools import cache
from typing import Any

from celery import Celery, states
from celery.backends.redis import RedisBackend
from celery.exceptions import Ignore, Reject
from celery.worker.control import control_command
from celery.worker.state import active_requests
from redis.asyncio import Redis

from workers.coroutine_task import CoroutineTask

app = Celery("pool", broker=os.environ["POOL_REDIS"], backend=os.environ["POOL_REDIS"])
app.conf.update(
    worker_pool="workers.pool:AsyncioPool",
    task_serializer="json",
    task_acks_late=False,
    task_track_started=True,
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 15},
)
app.conf.update(json.loads(os.environ.get("POOL_CONF", "{}")))


class SlowToRetry(RedisBackend):  # type: ignore[misc]
    """Writes RETRY a while after it has read what is there, as under load."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "url": os.environ["POOL_REDIS"]})

    def _set_with_state(self, key: Any, value: Any, state: str) -> Any:
        if state == states.RETRY:
            time.sleep(0.5)
        return super()._set_with_state(key, value, state)


@cache
def redis() -> "Redis":
    return Redis.from_url(os.environ["POOL_REDIS"], decode_responses=True)


@cache
def gate() -> asyncio.Event:
    return asyncio.Event()


def coroutine_task(function: Any) -> Any:
    """Register `async def function(request, …)` as the task `pool.<name>`."""

    async def arun(_self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        return await function(request, *args, **kwargs)

    members = {"name": f"pool.{function.__name__}", "arun": arun, "__module__": __name__}
    return app.register_task(type(function.__name__, (CoroutineTask,), members)())


@coroutine_task
async def echo(_request: Any, value: Any) -> Any:
    await asyncio.sleep(0)
    return value


@coroutine_task
async def whoami(request: Any, *, loud: bool = False) -> dict[str, Any]:
    routing_key = request.delivery_info["routing_key"]
    return {"id": request.id, "queue": routing_key, "headers": request.headers, "loud": loud}


@coroutine_task
async def fail(_request: Any) -> None:
    raise_boom()


def raise_boom() -> None:
    raise ValueError("boom")


@coroutine_task
async def leave(_request: Any) -> None:
    raise SystemExit(3)


@coroutine_task
async def ignore(request: Any) -> None:
    await redis().incr(f"ran:{request.id}")
    raise Ignore


@coroutine_task
async def ignore_quietly(request: Any) -> None:
    await redis().incr(f"ran:{request.id}")
    raise Ignore


ignore_quietly.quiet_ignore = ignore_quietly.acks_late = True


@coroutine_task
async def reject(request: Any) -> None:
    await redis().incr(f"ran:{request.id}")
    raise Reject("not mine", requeue=False)


@coroutine_task
async def hold(request: Any) -> str:
    """Wait for `open_gate`; leave a trace of the start and of a cut."""
    try:
        await redis().incr(f"ran:{request.id}")
        await gate().wait()
    except asyncio.CancelledError as error:
        await redis().hset("cuts", request.id, str(error.args[0]))
        raise
    return "held"


@coroutine_task
async def wait(_request: Any) -> None:
    """Like hold, without a trace."""
    await gate().wait()


@coroutine_task
async def open_gate(_request: Any) -> None:
    gate().set()


@coroutine_task
async def settle(request: Any) -> str:
    """Catch the cut and return why, as a slice does."""
    try:
        await redis().incr(f"ran:{request.id}")
        await gate().wait()
    except asyncio.CancelledError as error:
        await asyncio.sleep(0.05)
        return f"settled: {error.args[0]}"
    return "not cut"


@coroutine_task
async def defy(request: Any) -> None:
    """Ignore every cut."""
    await redis().incr(f"ran:{request.id}")
    while not gate().is_set():
        try:
            await gate().wait()
        except asyncio.CancelledError:
            continue


@coroutine_task
async def nap(request: Any, seconds: float) -> str:
    await redis().incr(f"ran:{request.id}")
    await asyncio.sleep(seconds)
    return "slept"


@control_command(args=[("task_id", str)])  # type: ignore[untyped-decorator]
def cut(state: Any, task_id: str) -> dict[str, str]:
    """Terminate a task without announcing it as revoked, as a node's own stop does."""
    (request,) = [task for task in active_requests if task.id == task_id]
    state.consumer.pool.terminate_job(request.worker_pid)
    return {"ok": task_id}


FULL = 50
"""The slots of the nodes on which `gauge` runs."""
inside = {"now": 0, "peak": 0}
full = asyncio.Event()


@coroutine_task
async def gauge(request: Any) -> None:
    """Count how many of these run at once. The first ones stay until all slots are taken, however long a
    node takes for that; then there is time for one too many."""
    inside["now"] += 1
    inside["peak"] = max(inside.values())
    if inside["now"] >= FULL:
        full.set()
    await redis().incr(f"ran:{request.id}")
    await full.wait()
    await asyncio.sleep(0.2)
    inside["now"] -= 1


@coroutine_task
async def peak(_request: Any) -> int:
    return inside["peak"]


@app.task(name="pool.plain")  # type: ignore[untyped-decorator]
def plain(value: Any) -> list[Any]:
    return [value, threading.current_thread().name]


@app.task(name="pool.total")  # type: ignore[untyped-decorator]
def total(parts: list[int]) -> int:
    return sum(parts)
