"""kombu's Redis transport, made for doorbells.

*A message nobody can read does not end the node.* Stock kombu lets the error of a malformed message
(not JSON, not a message) out into Celery's event loop, which ends the process. Here it is set aside
with its reason, and the next one is read.

*A doorbell is gone when it is popped.* The queue of doorbells is declared ``no_ack``: nothing is
noted at the delivery and nothing is struck off at the acknowledgement, which saves two round trips
of the three that a message costs. The record is the truth: what a dying node had popped and not
claimed is rung again. Queues with acknowledgement work as ever beside it.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from queue import Empty
from typing import Any, ClassVar

from kombu.transport import redis
from kombu.transport.virtual import Message

log = logging.getLogger("colony.transport")

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


class QoS(redis.QoS):
    """Lets nothing more in when the node drains."""

    def can_consume(self) -> bool:
        """Whether the next message may be asked for."""
        return not Transport.is_closed() and bool(super().can_consume())  # type: ignore[no-untyped-call]


class Channel(redis.Channel):
    """A channel whose reader survives what it cannot read."""

    QoS = QoS

    def _brpop_read(self, **options: Any) -> Any:
        try:
            super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except Empty:
            Heard.reply = time.monotonic()
            raise
        except json.JSONDecodeError as error:
            self.connection.client.transport.set_aside_message(f"not JSON: {error}", error.doc)
        except UnicodeDecodeError as error:
            self.connection.client.transport.set_aside_message(
                f"not UTF-8: {error}", repr(error.object[:2000])
            )
        Heard.a_message()
        return True

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
