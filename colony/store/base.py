"""What the parts of the store share: the link, the keys, and how a script is run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from colony.errors import StoreIncompatible
from colony.faults import reached
from colony.store.keys import Keys
from colony.store.link import Link, Reply
from colony.store.scripts import SCHEMA, SCRIPTS


def millis(duration: timedelta) -> int:
    """A duration in whole milliseconds, as scripts take it."""
    return int(duration.total_seconds() * 1000)


class StoreBase:
    """One colony's keys on one link."""

    def __init__(self, link: Link, colony_id: str) -> None:
        self.link = link
        self.colony_id = colony_id
        self.keys = Keys(colony_id)

    async def run(self, name: str, *args: Any) -> Reply:
        """Run the script of that name; its first argument is the first ARGV."""
        reached(f"before-{name}")
        reply = await self.link.script(SCRIPTS[name], self.keys.prefix, args)
        reached(f"after-{name}")
        return reply

    async def _hash(self, key: str) -> list[str]:
        """A whole hash, flat: redis-py gives a dict, or a flat list."""
        reply = await self.link.call("HGETALL", key)
        return (
            [text for item in reply.items() for text in item] if isinstance(reply, dict) else reply
        )

    async def check_schema(self) -> None:
        """Refuse a store that a newer Colony has written."""
        found = await self.link.call("HGET", self.keys("meta"), "schema")
        if found is not None and int(found) > SCHEMA:
            raise _newer_schema(self.colony_id, found)


def _newer_schema(colony_id: str, found: str) -> StoreIncompatible:
    return StoreIncompatible(
        f"colony {colony_id!r} was written by a newer Colony "
        f"(schema {found}, this one knows {SCHEMA}): upgrade this node or producer"
    )


def pairs(flat: list[str]) -> dict[str, str]:
    """A flat field, value, … reply as a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
