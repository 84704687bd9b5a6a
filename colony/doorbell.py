"""The doorbells: Celery messages that say "look at worker X", and nothing more.

A message holds the worker's id and a short label for Flower; it is sent by name, so this side needs
no task code. The record is written before; a doorbell that is lost is rung again by a janitor.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from celery import Celery
from kombu.entity import Queue
from kombu.exceptions import KombuError, OperationalError
from redis.exceptions import ResponseError

from colony.errors import StoreUnavailable
from colony.faults import reached
from colony.settings import Settings
from colony.store import Ring
from colony.store.link import CONNECTION_LOST, safe_url, user_of
from colony.store.trouble import trouble_of

log = logging.getLogger("colony.doorbell")

RUN_WORKER = "colony.run_worker"
JOIN_BATCH = "colony.join_batch"
TICK = "colony.tick"
SPAWN = "colony.spawn"
SPAWN_BATCH = "colony.spawn_batch"
TRIGGER = "colony.trigger"
INTAKE = (SPAWN, SPAWN_BATCH, TRIGGER)
"""The tasks that foreign producers send, to the intake queue."""
AT_ONCE = 500
"""Messages in one call: what the broker must manage in the time that it is given."""

SOCKET_SECONDS = 3.0
"""What a connection to the broker waits for an answer; the longest question is a BRPOP of one second."""

P = ParamSpec("P")
T = TypeVar("T")

BROKER_LOST = (OperationalError, KombuError, ResponseError, *CONNECTION_LOST)


def queue_of(colony_id: str) -> str:
    """The Celery queue of a colony's doorbells."""
    return f"colony.{colony_id}"


def intake_of(colony_id: str) -> str:
    """The Celery queue of what foreign producers send. Its messages are the only copy, so they are no
    business of Celery's consumer: see `workers.intake.queue`."""
    return f"colony.{colony_id}.intake"


def _route(colony_id: str, name: str) -> dict[str, str] | None:
    """Where a task goes whose sender names no queue; None for doorbells: to the default queue."""
    if name in INTAKE:
        return {"queue": intake_of(colony_id)}
    return None if name.startswith("colony.") else {"queue": "celery"}  # a link of somebody's own


def celery_app(colony_id: str, settings: Settings) -> Celery:
    """A Celery application that talks to a colony's queue: JSON only, ids only, early ack.

    The keys of unacknowledged messages are our own: kombu users of the same Redis database share
    them by default, and restore each other's messages.
    """
    url = settings.queue_url
    tls = settings.tls.options(
        url
    )  # in the URL for all that make connections of it; here for Flower
    app = Celery(f"colony.{colony_id}", broker=url, backend=url)
    app.conf.update(
        broker_use_ssl=tls or None,
        redis_backend_use_ssl=tls or None,
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        accept_content=["json"],
        task_default_queue=queue_of(colony_id),
        colony_intake_queue=intake_of(colony_id),
        task_routes=[lambda name, *_, **__: _route(colony_id, name)],
        task_ignore_result=True,
        task_acks_late=False,
        task_queues=[Queue(queue_of(colony_id), routing_key=queue_of(colony_id), no_ack=True)],
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=1.0,
        result_expires=7 * 24 * 3600,
        result_backend_always_retry=True,
        redis_socket_timeout=SOCKET_SECONDS,
        redis_socket_connect_timeout=1.0,
        redis_backend_health_check_interval=10,
        # Of one question; whoever must have an answer asks again, for ever (result_backend_always_retry).
        result_backend_transport_options={"retry_policy": {"timeout": SOCKET_SECONDS}},
        broker_transport_options={
            "visibility_timeout": 15,
            "unacked_restore_interval": 3,
            "unacked_restore_throttle": 1,
            "unacked_key": f"colony.{colony_id}.unacked",
            "unacked_index_key": f"colony.{colony_id}.unacked_index",
            "unacked_mutex_key": f"colony.{colony_id}.unacked_mutex",
            "unacked_mutex_expire": 10,
            "socket_timeout": SOCKET_SECONDS,
            "socket_connect_timeout": 1,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    )
    return app


class Doorbells:
    """Rings, and looks at the queue. Blocking: where an event loop runs, call with `in_time`."""

    def __init__(self, app: Celery, colony_id: str, settings: Settings) -> None:
        self._app = app
        self._queue = queue_of(colony_id)
        self._intake = intake_of(colony_id)
        self._unacked = app.conf.broker_transport_options["unacked_key"]
        self._patience = settings.connect_timeout.total_seconds()
        self._where = safe_url(settings.queue_url)
        self._user = user_of(settings.queue_url)

    async def in_time(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """One of the verbs below, in a thread. Raises `StoreUnavailable`, also when it has not returned after
        `connect_timeout`: a broker that is cut off takes its time to say nothing. It may be done later."""
        try:
            async with asyncio.timeout(self._patience):
                return await asyncio.to_thread(verb, *args, **kwargs)
        except TimeoutError:
            raise StoreUnavailable(
                f"the broker at {self._where} has not answered within {self._patience:g} s"
            ) from None

    def expect(self, batch: str, size: int) -> None:
        """Before they are rung for: the chord that joins this batch expects so many members."""
        try:
            self._app.backend.set_chord_size(batch, size)
        except BROKER_LOST as error:
            raise self._away(error) from error

    def ring(self, rings: Sequence[Ring]) -> None:
        """Send one message for each, `AT_ONCE` at most. Raises `StoreUnavailable` when the broker is away."""
        reached("before-ring")
        try:
            with self._app.producer_or_acquire() as producer, producer.batch(AT_ONCE):
                bodies = {batch: self._body(batch) for batch in {ring.batch for ring in rings}}
                for ring in rings:
                    self._send(ring, bodies[ring.batch], producer)
        except BROKER_LOST as error:
            raise self._away(error) from error
        reached("after-ring")

    def depth(self) -> tuple[int, int]:
        """How many messages wait in the queue, and how many a node has taken but not begun."""
        try:
            with self._app.connection_or_acquire() as connection:
                client: Any = connection.default_channel.client
                return int(client.llen(self._queue)), int(client.hlen(self._unacked))
        except BROKER_LOST as error:
            raise self._away(error) from error

    def intake_depth(self) -> int:
        """How many messages of foreign producers wait to be accepted."""
        try:
            with self._app.connection_or_acquire() as connection:
                return int(connection.default_channel._size(self._intake))
        except BROKER_LOST as error:
            raise self._away(error) from error

    def close(self) -> None:
        """Give the connections back."""
        self._app.close()

    def notify(self, task: str, args: list[Any], task_id: str, queue: str) -> None:
        """Send a producer's own task, by name. Raises `StoreUnavailable` when the broker is away."""
        try:
            self._app.send_task(task, args=args, task_id=task_id, ignore_result=True, queue=queue)
        except BROKER_LOST as error:
            raise self._away(error) from error

    def _away(self, error: Exception) -> StoreUnavailable:
        return trouble_of(error, self._where, "the broker", user=self._user) or StoreUnavailable(
            f"the broker at {self._where} cannot be reached: {error}"
        )

    def _body(self, batch: str) -> Any:
        """The body of a batch's chord, for all its members. It rings once more if it fails."""
        if not batch:
            return None
        body = self._app.signature(
            JOIN_BATCH,
            args=[batch],
            immutable=True,
            task_id=f"{batch}.join",
            queue=self._queue,
        )
        body.link_error(body.clone(task_id=f"{batch}.join-after-error"))
        return body

    def _send(self, ring: Ring, body: Any, producer: Any) -> None:
        """One message; of a batch, with the member's place in its chord."""
        part = {"group_id": ring.batch, "group_index": ring.index, "chord": body} if body else {}
        self._app.send_task(
            RUN_WORKER,
            args=[ring.worker_id],
            task_id=ring.worker_id,
            shadow=f"agent:{ring.agent}",
            argsrepr=ring.worker_id,
            kwargsrepr="",
            ignore_result=True,
            **part,
            retry=True,
            retry_policy={"max_retries": 1, "interval_start": 0.1, "interval_max": 0.1},
            producer=producer,
        )
