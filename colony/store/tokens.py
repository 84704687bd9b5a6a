"""API tokens as they are kept, the rate of those who hold them, and the count of what was refused."""

from __future__ import annotations

from datetime import timedelta

from colony.store.base import StoreBase, millis, pairs


class Tokens(StoreBase):
    """What the gateway asks of the store on every request. A secret is never here, only its hash."""

    async def put_token(self, token_id: str, kept: str, *, ttl: timedelta | None) -> str | None:
        """Keep a token: `kept` is a JSON object, to which the times of its creation and end are added.
        Returns the whole; None when the colony is unknown."""
        rest = kept.removeprefix("{")
        reply = await self.run("put_token", token_id, rest, "" if ttl is None else millis(ttl))
        return None if reply is None else str(reply)

    async def read_token(self, token_id: str) -> tuple[str, int]:
        """What is kept of a token (JSON; empty when there is none), and Redis' time in ms."""
        kept, now = await self.run("read_token", token_id)
        return str(kept), int(now)

    async def tokens(self) -> dict[str, str]:
        """All tokens, id → what is kept (JSON)."""
        return pairs(await self._hash(self.keys("tokens")))

    async def revoke_token(self, token_id: str) -> bool:
        """Forget a token; False when there is none. The next request with it is refused."""
        return bool(await self.link.call("HDEL", self.keys("tokens"), token_id))

    async def take_permit(self, who: str, *, rate: float, burst: int) -> timedelta:
        """Count a request of a caller: zero, or how long it must wait (then it was not counted)."""
        return timedelta(milliseconds=int(await self.run("take_permit", who, rate, burst)))

    async def tally(self, what: str) -> None:
        """Add one to a total of the colony (`FleetStats.totals`)."""
        await self.run("tally", what)
