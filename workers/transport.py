"""kombu's Redis transport, made for doorbells.

*A message nobody can read does not end the node.* Stock kombu lets the error of a malformed message
(not JSON, not a message) out into Celery's event loop, which ends the process. Here it is set aside
with its reason, and the next one is read.

*A doorbell is gone when it is popped.* The queue of doorbells is declared ``no_ack``: nothing is
noted at the delivery and nothing is struck off at the acknowledgement, which saves two round trips
of the three that a message costs. The record is the truth: what a dying node had popped and not
claimed is rung again. Queues with acknowledgement work as ever beside it.

*While doorbells come, several are asked for at a time*: one at first, then twice as many each time, at
most as many as there are slots. kombu asks for one, and waits a round trip for each: with 2 ms to Redis a
thousand doorbells took five seconds. The slow start leaves their share of a small burst to other nodes.

    BRPOP ── a message ──▶ RPOP 2 ── two ──▶ RPOP 4 ── … ──▶ RPOP 32
      ▲                      │ fewer            │ fewer
      └──────────────────────┴──────────────────┘
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from queue import Empty
from typing import Any, ClassVar

from kombu.transport import redis
from kombu.transport.virtual import Message

log = logging.getLogger("colony.transport")

AT_MOST = 32
"""Messages asked for at a time."""

SetAside = Callable[[str, str], None]


class Heard:
    """When the broker last answered this process's consumer (`time.monotonic`; 0: never).

    `reply`: at all, if only that the queue is empty, which it says every second while it is asked.
    `message`: with a message.
    """

    reply: ClassVar[float] = 0.0
    message: ClassVar[float] = 0.0

    @classmethod
    def a_message(cls) -> None:
        """A message came."""
        cls.reply = cls.message = time.monotonic()


class Room:
    """How many more messages this process has slots for. The node sets it; without, they come one by one."""

    slots: ClassVar[Callable[[], int]] = staticmethod(lambda: 1)


class QoS(redis.QoS):
    """Lets nothing more in when the node drains."""

    def can_consume(self) -> bool:
        """Whether the next message may be asked for."""
        return not Transport.is_closed() and bool(super().can_consume())  # type: ignore[no-untyped-call]


class Channel(redis.Channel):
    """A channel whose reader survives what it cannot read."""

    QoS = QoS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._doorbells: set[str] = set()
        """Queues without acknowledgement."""
        self._run = 0
        """How many messages the last answer brought, if it was all that were asked for; else 0."""
        self._asked = 1
        """How many are asked for now."""

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Remember which queues hold doorbells."""
        if no_ack:
            self._doorbells.add(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)  # type: ignore[no-untyped-call]

    def _brpop_start(self, timeout: float | None = None) -> None:
        self._asked = self._how_many()
        if self._asked == 1:
            super()._brpop_start(timeout)  # type: ignore[no-untyped-call]
            return
        [queue] = self._doorbells
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()  # type: ignore[assignment]
        self.client.connection.send_command("RPOP", queue, self._asked)

    def _how_many(self) -> int:
        """One, unless messages come just now and doorbells are all that can come."""
        if len(self._doorbells) != 1 or set(self.active_queues) != self._doorbells:
            return 1
        return max(1, min(2 * self._run, AT_MOST, Room.slots()))

    def _brpop_read(self, **options: Any) -> Any:
        try:
            if self._asked > 1:
                self._read_several(**options)
            else:
                self._run = 0
                self._read_one(partial(super()._brpop_read, **options))
                self._run = 1
        except Empty:
            Heard.reply = time.monotonic()
            raise
        Heard.a_message()
        return True

    def _read_several(self, **options: Any) -> None:
        """The answer to RPOP. Raises `Empty`."""
        asked, self._run = self._asked, 0
        try:
            found = self.client.parse_response(self.client.connection, "RPOP", **options)
        except self.connection_errors:
            self.client.connection.disconnect()  # the next turn connects again
            raise
        finally:
            self._in_poll = None  # type: ignore[assignment]
            self._flush_brpop_reauth()  # type: ignore[no-untyped-call]
        if not found:
            raise Empty
        [queue] = self._doorbells
        for item in found:
            self._read_one(partial(self._deliver_one, queue, item))
        self._run = asked if len(found) == asked else 0

    def _deliver_one(self, queue: str, item: bytes) -> None:
        self.connection._deliver(json.loads(item.decode()), queue)

    def _read_one(self, read: Callable[[], Any]) -> None:
        try:
            read()
        except json.JSONDecodeError as error:
            self.connection.client.transport.set_aside_message(f"not JSON: {error}", error.doc)
        except UnicodeDecodeError as error:
            self.connection.client.transport.set_aside_message(
                f"not UTF-8: {error}", repr(error.object[:2000])
            )

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Acknowledge what awaits it; a message of a ``no_ack`` queue does not."""
        if delivery_tag in self.qos._delivered:
            super().basic_ack(delivery_tag, multiple)  # type: ignore[no-untyped-call]

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Likewise."""
        if delivery_tag in self.qos._delivered:
            super().basic_reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]


class Transport(redis.Transport):
    """A transport that looks at a message before it delivers it."""

    Channel = Channel
    set_aside: ClassVar[SetAside | None] = None
    """Where unreadable messages go (reason, text). The node sets it; without, they are only logged."""
    is_closed: ClassVar[Callable[[], bool]] = staticmethod(lambda: False)
    """Whether no message is to be asked for any more. The node sets it."""

    def _deliver(self, message: Any, queue: str) -> None:
        reason = self._unreadable(message)
        if reason is None:
            super()._deliver(_with_shared_keys(message), queue)  # type: ignore[no-untyped-call]
        else:
            self.set_aside_message(reason, json.dumps(message, default=repr))

    def set_aside_message(self, reason: str, text: str) -> None:
        """Log it and hand it on."""
        log.error("a message on the queue was set aside: %s", reason)
        if Transport.set_aside is not None:
            Transport.set_aside(reason, text)

    def _unreadable(self, message: Any) -> str | None:
        """Why kombu could not make a message of this; None when it can."""
        try:
            made = Message(message, channel=self.channels[0])
            return (
                None
                if {"exchange", "routing_key"} <= set(made.delivery_info)
                else "no delivery_info"
            )
        except Exception as error:  # noqa: BLE001 (whatever kombu stumbles over, the message is set aside)
            return f"not a kombu message ({type(error).__name__}: {error})"


def _with_shared_keys(value: Any) -> Any:
    """The same message with its keys interned: JSON makes them anew each time, and a node keeps
    the message of every running worker (2 KB less for each)."""
    if isinstance(value, dict):
        return {sys.intern(key): _with_shared_keys(item) for key, item in value.items()}
    return value
