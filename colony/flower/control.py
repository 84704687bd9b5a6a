"""Control messages that are given up soon: Celery's own tries for as long as the broker is away, in a thread
that Flower cannot end without. It asks again by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from celery.app.control import Control as CeleryControl
from kombu.pidbox import Mailbox as KombuMailbox

POLICY: Final = {"max_retries": 1, "interval_start": 0.1, "interval_max": 0.1}


class _Soon:
    """A producer that tries twice."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer

    def publish(self, body: Any, **options: Any) -> Any:
        """As the producer's own. Raises kombu's `OperationalError`."""
        return self._producer.publish(body, **options | {"retry_policy": POLICY})


class Mailbox(KombuMailbox):
    """Kombu's, whose messages are sent in this way."""

    @contextmanager
    def producer_or_acquire(self, producer: Any = None, channel: Any = None) -> Iterator[Any]:
        """What sends a message."""
        with super().producer_or_acquire(producer, channel) as found:
            yield _Soon(found)


class Control(CeleryControl):  # type: ignore[misc]
    """Celery's, with such a mailbox."""

    Mailbox = Mailbox
