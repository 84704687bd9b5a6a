"""A client of Server-Sent Events, as the standard describes it: what it remembers is what it dispatched."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2

from colony.testing import wait_until


@dataclass(slots=True)
class Listener:
    """Follows one URL over any number of connections."""

    url: str
    token: str
    last_id: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[httpx2.Response]:
        """One connection; ended when the block ends, wherever it is."""
        headers = {"Authorization": f"Bearer {self.token}"}
        if self.last_id:
            headers["Last-Event-ID"] = self.last_id
        timeout = httpx2.Timeout(10, read=30)
        async with (
            httpx2.AsyncClient(timeout=timeout) as client,
            client.stream("GET", self.url, headers=headers) as response,
        ):
            yield response

    async def listen(self) -> int:
        """Dispatch events until the stream ends; the status of the answer."""
        async with self.connected() as response:
            if response.status_code != 200:
                return response.status_code
            assert response.headers["content-type"].startswith("text/event-stream")
            block: list[str] = []
            async for line in response.aiter_lines():
                if line:
                    block.append(line)
                else:
                    self._dispatch(block)
                    block = []
            return 200

    async def listen_for(self, seconds: float) -> None:
        """Listen, and be killed after this time, or lose the connection before."""
        with suppress(httpx2.TransportError, TimeoutError):
            async with asyncio.timeout(seconds):
                await self.listen()

    async def listen_until(self, condition: Callable[[], object], what: str) -> None:
        """Listen on one connection, and be killed once the condition holds."""
        listening = asyncio.create_task(self.listen())
        try:
            await wait_until(condition, what=what)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    def _dispatch(self, block: list[str]) -> None:
        fields: dict[str, str] = {}
        for line in block:
            name, _, value = line.partition(":")
            if name:
                fields[name] = value.removeprefix(" ")
            else:
                self.comments.append(value.strip())
        self.last_id = fields.get("id", self.last_id)
        if "data" in fields:
            data = json.loads(fields["data"])
            assert data["type"] == fields["event"]
            assert data["id"] == fields.get("id")
            self.events.append(data)
