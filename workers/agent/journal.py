"""The seam between the agent loop and the store: the loop knows this protocol, never Redis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from colony.conversation import Step


class Journal(Protocol):
    """Where a run writes down what it has paid for.

    Each method raises `colony.errors.StaleToken` once the worker is no longer ours, and
    `asyncio.CancelledError` comes as for any await: the loop lets both pass.
    """

    async def append(self, step: Step) -> None:
        """Write one checkpoint. When this returns, what it holds is never asked for again."""

    async def tell(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Tell live listeners something that is not kept (text deltas, progress). Never fails."""
