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

    BRPOP ── a message ──▶ RPOP 2 ── two ──▶ RPOP 4 ── … ──▶ RPOP 64
      ▲                      │ fewer            │ fewer
      └──────────────────────┴──────────────────┘
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty
from typing import Any, ClassVar

from kombu.transport import redis
from kombu.transport.virtual import Message
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis.exceptions import NoPermissionError

log = logging.getLogger("colony.transport")

AT_MOST = 64
"""Messages asked for at a time."""

ANSWER_SECONDS = 2.0
"""BRPOP is answered within one, if only that there is nothing."""

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
    """A channel whose reader takes several doorbells at a time, and survives what it cannot read."""

    QoS = QoS
    may_take_several: ClassVar[bool] = True
    """Until Redis says that we may not: rules for users that were written for an older version."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._doorbell_queues: set[str] = set()
        """Those without acknowledgement."""
        self._asked: tuple[str, int] | None = None
        """Of which queue how many messages are asked for now; None: of all of them, one."""
        self._brought = 0
        """How many the last answer brought, if it was all that were asked for; else 0."""

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Remember which queues hold doorbells."""
        if no_ack:
            self._doorbell_queues.add(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)  # type: ignore[no-untyped-call]

    def _brpop_start(self, timeout: float | None = None) -> None:
        self._asked = self._several()
        if self._asked is None:
            super()._brpop_start(timeout)  # type: ignore[no-untyped-call]
            return
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()  # type: ignore[assignment]
        self.client.connection.send_command("RPOP", *self._asked)

    def _several(self) -> tuple[str, int] | None:
        """More than one where they come just now, and doorbells are all that can come."""
        count = min(2 * self._brought, AT_MOST, Room.slots())
        match self.active_queues:
            case [queue] if count > 1 and queue in self._doorbell_queues and self.may_take_several:
                return queue, count
        return None

    def _brpop_read(self, **options: Any) -> Any:
        """Deliver what came, all of it. Raises `Empty`."""
        try:
            queue, messages = self._answer(**options)
        finally:
            self._in_poll = None  # type: ignore[assignment]
            self._flush_brpop_reauth()  # type: ignore[no-untyped-call]
        if not messages:
            Heard.reply = time.monotonic()
            raise Empty
        Heard.a_message()
        failures = []
        for message in messages:
            try:
                self._deliver(message, queue)
            except Exception as error:  # noqa: BLE001 (raised below, once the others have been delivered)
                failures.append(error)
        if failures:
            raise failures[0]
        return True

    def _answer(self, **options: Any) -> tuple[str, list[bytes]]:
        """The queue, and what it held."""
        asked, self._asked, self._brought = self._asked, None, 0
        command = "RPOP" if asked else "BRPOP"
        try:
            reply = self.client.parse_response(self.client.connection, command, **options)
        except NoPermissionError as error:
            if asked is None:
                raise
            log.warning("doorbells are taken one by one, which is slower: %s", error)
            Channel.may_take_several = False
            return "", []
        except self.connection_errors:
            self.client.connection.disconnect()  # the next turn connects again
            raise
        if not reply:
            return "", []
        if asked is None:
            key, message = reply
            queue, wanted, messages = bytes_to_str(key).rsplit(self.sep, 1)[0], 1, [message]
            self._queue_cycle.rotate(queue)
        else:
            (queue, wanted), messages = asked, reply
        self._brought = len(messages) if len(messages) == wanted else 0
        return queue, messages

    def _deliver(self, raw: bytes, queue: str) -> None:
        text = bytes_to_str(raw)
        try:
            message = loads(text)
        except json.JSONDecodeError as error:
            self.connection.set_aside_message(f"not JSON: {error}", text)
        except (ValueError, TypeError, RecursionError) as error:
            self.connection.set_aside_message(f"not read ({type(error).__name__}: {error})", text)
        else:
            self.connection._deliver(message, queue)

    def give_back(self) -> None:
        """Of a channel whose consumers are cancelled: wait for the answer that is on its way, and put what it
        brings back into its queue. Without this it would stay here until the connection ends."""
        waiting: Any = self._in_poll
        if waiting and waiting.can_read(ANSWER_SECONDS):
            with suppress(Empty):
                self._brpop_read()

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
        try:
            made = Message(message, channel=self.channels[0])
            reason = (
                None
                if {"exchange", "routing_key"} <= set(made.delivery_info)
                else "no delivery_info"
            )
        except Exception as error:  # noqa: BLE001 (whatever kombu stumbles over, the message is set aside)
            reason = f"not a kombu message ({type(error).__name__}: {error})"
        if reason is None:
            super()._deliver(_with_shared_keys(message, 3), queue)  # type: ignore[no-untyped-call]
        else:
            self.set_aside_message(reason, json.dumps(message, default=repr))

    def set_aside_message(self, reason: str, text: str) -> None:
        """Log it and hand it on."""
        log.error("a message on the queue was set aside: %s", reason)
        if Transport.set_aside is not None:
            Transport.set_aside(reason, text)


def _with_shared_keys(value: Any, levels: int) -> Any:
    """The same message with the keys of so many levels interned: JSON makes them anew each time, and a node
    keeps the message of every running worker (2 KB less for each)."""
    if levels and isinstance(value, dict):
        return {sys.intern(k): _with_shared_keys(item, levels - 1) for k, item in value.items()}
    return value
