"""Celery's consumer, except that messages which are not ours are set aside with their reason."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer

from colony.doorbell import INTAKE
from workers.showing import SHOWING
from workers.transport import Room, Transport

log = logging.getLogger("colony.consumer")

FLUSH_SECONDS = 0.1
RECONNECT_SECONDS = 1.0


class Consumer(CeleryConsumer):  # type: ignore[misc]
    """Sets aside, acknowledges, goes on. `colony doctor` shows what was set aside.

    Celery's task events leave in batches, a tenth of a second apart, instead of one by one: they are
    for people's eyes, and were a quarter of the main thread's work.
    """

    _flush_is_due = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        SHOWING.through(self)
        Room.slots = self._free_slots

    def _free_slots(self) -> int:
        """As Celery counts them for `worker_disable_prefetch`; none while the pool has not been started."""
        if not self.pool.active:
            return 0
        most = getattr(self.controller, "max_concurrency", None) or self.pool.num_processes
        return int(most) - len(state.reserved_requests)

    def stop(self) -> None:
        """Take nothing more; doorbells that are on their way here go back, for other nodes."""
        super().stop()
        channel = getattr(self.task_consumer, "channel", None)
        if channel is not None and self.connection is not None:
            try:
                channel.give_back()
            except self.connection.connection_errors as error:
                log.warning("doorbells may be lost, and rung again later: %s", error)

    def ensure_connected(self, conn: Any) -> Any:
        """Try again every second: Celery's tries are up to 30 s apart, long after the broker is back."""
        conn.ensure_connection = partial(
            conn.ensure_connection,
            interval_start=0.2,
            interval_step=0.4,
            interval_max=RECONNECT_SECONDS,
        )
        return super().ensure_connected(conn)

    def on_send_event_buffered(self) -> None:
        """An event was buffered: flush soon, with those that come until then."""
        if self.hub is not None and not self._flush_is_due:
            self._flush_is_due = True
            self.hub.call_later(FLUSH_SECONDS, self._flush_soon)

    def _flush_soon(self) -> None:
        self._flush_is_due = False
        if self.event_dispatcher is not None:
            self._flush_events()

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Celery's handler lets the errors of headers or a body of another shape end the node."""
        receive = super().create_task_handler(*args, **kwargs)

        def on_task_received(message: Any) -> None:
            try:
                if message.headers.get("task") in INTAKE:
                    self._pass_on(message)
                    return
                if message.headers.get("task") in self.strategies:
                    _check(message)
                receive(message)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                self.on_invalid_task(None, message, error)

        return on_task_received

    def _pass_on(self, message: Any) -> None:
        """What was meant for the intake, and sent to the queue of the doorbells; or comes from the intake
        itself, where somebody had this consumer read it (`-Q`): it leaves that to the taker."""
        intake = self.app.conf.colony_intake_queue
        if self.task_consumer.consuming_from(intake):
            log.error(
                "queue %s is read by the node's intake, not by its Celery consumer: left out",
                intake,
            )
            self.cancel_task_queue(intake)
        try:
            message.channel._put(intake, message._raw)
        except Exception as error:
            _set_aside(f"not passed on to the intake ({type(error).__name__}: {error})", message)
            raise
        message.ack()

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """A message in no format that Celery knows."""
        _set_aside("not a Celery task message", message)
        super().on_unknown_message(body, message)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """A task that nodes do not have: no result is stored for it, it is not ours."""
        _set_aside(
            f"unknown task {message.headers.get('task')!r}; nodes run colony.* tasks", message
        )
        message.ack()

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """A task message with headers or a body that do not hold together."""
        _set_aside(f"invalid task message: {exc}", message)
        super().on_invalid_task(body, message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """A body that cannot be decoded, or is of a content type that is not accepted."""
        _set_aside(f"undecodable body: {exc}", message)
        super().on_decode_error(message, exc)


def _check(message: Any) -> None:
    """Refuse what would only fail when a slot is taken, or inside a task where nobody sets it aside."""
    match message.headers.get("timelimit"):
        case None | [int() | float() | None, int() | float() | None]:
            pass
        case _:
            raise ValueError("the time limits of a task must be [hard, soft], in seconds")
    try:
        body = message.payload
    except Exception:  # noqa: BLE001 - whatever a decoder raises, Celery's handler meets it again
        return
    match body:
        case [list(), dict(), *_]:
            pass
        case _:
            raise ValueError(
                "the body of a task must be [list of arguments, object of arguments, …]"
            )


def _set_aside(reason: str, message: Any) -> None:
    body = (
        message.body
        if isinstance(message.body, str)
        else bytes(message.body or b"").decode(errors="replace")
    )
    if Transport.set_aside is not None:
        Transport.set_aside(reason, f"headers={message.headers!r} body={body}")
