"""The doorbell: a message holds an id and a label, nothing else; a broker that is away delays only."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from redis import Redis

from colony.definition import AgentSpec, Colony
from colony.doorbell import RUN_WORKER, Doorbells, celery_app, queue_of
from colony.errors import StoreUnavailable
from colony.runtime import ColonyRuntime
from colony.settings import Settings
from colony.store import Ring, Store
from tests.store.kit import dump
from workers.node.context import NodeContext

SECRET = "the secret task"
SLACK = 1.0
"""What a busy machine may add to the promised 2 s."""


@pytest_asyncio.fixture
async def colony_id(store: Store) -> str:
    """A colony as a node makes it known."""
    colony = Colony(store.colony_id, agent=AgentSpec(model="test"))
    settings = Settings()
    await store.register(NodeContext(colony, settings, celery_app("x", settings)).face())
    return store.colony_id


@pytest_asyncio.fixture
async def runtime(colony_id: str, redis_url: str) -> AsyncIterator[ColonyRuntime]:
    """A producer."""
    async with ColonyRuntime(colony_id, redis_url=redis_url) as opened:
        yield opened


@pytest.fixture
def nobody_listens() -> Iterator[str]:
    """The URL of a port that is taken, by nobody who answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"redis://:password@127.0.0.1:{taken.getsockname()[1]}/0"


def _messages(redis_url: str, colony_id: str) -> list[dict[str, Any]]:
    with Redis.from_url(redis_url) as client:
        raw = client.lrange(queue_of(colony_id), 0, -1)
        client.delete(queue_of(colony_id))
    return [json.loads(text) for text in raw]


async def test_a_message_holds_an_id_and_a_label(
    runtime: ColonyRuntime, redis_url: str, colony_id: str
) -> None:
    """Law 7: neither the task nor its data is on the queue, in any encoding; JSON, protocol 2."""
    [worker_id] = await runtime.spawn(
        SECRET,
        data={"key": SECRET},
        correlation_id="correlation-7",
        idempotency_key="idempotency-7",
    )
    [message] = _messages(redis_url, colony_id)
    body = base64.b64decode(message["body"]).decode()
    args, kwargs, embed = json.loads(body)
    assert (args, kwargs) == ([worker_id], {})
    assert not any(embed.values())
    headers = message["headers"]
    assert (headers["task"], headers["id"], headers["lang"]) == (RUN_WORKER, worker_id, "py")
    assert (headers["shadow"], headers["argsrepr"]) == ("agent:agent", worker_id)
    assert (headers["kwargsrepr"], headers["ignore_result"]) == ("", True)
    assert message["content-type"] == "application/json"
    for secret in (SECRET, "correlation-7", "idempotency-7"):
        assert secret not in json.dumps(message) + body


async def test_a_thousand_are_rung_in_one_batch(redis_url: str, colony_id: str) -> None:
    """A thousand doorbells arrive once each, in order, and are counted by the queue's depth."""
    settings = Settings(redis_url=redis_url)
    doorbells = Doorbells(celery_app(colony_id, settings), colony_id, settings)
    rings = [Ring(f"w{n:04}", "agent") for n in range(1000)]
    doorbells.ring(rings)
    assert doorbells.depth() == (1000, 0)
    doorbells.close()
    ids = [message["headers"]["id"] for message in _messages(redis_url, colony_id)]
    assert ids[::-1] == [ring.worker_id for ring in rings]


async def test_one_that_waits_for_its_time_is_not_rung(
    runtime: ColonyRuntime, redis_url: str, colony_id: str
) -> None:
    """A worker for later has no message; a repeated idempotent spawn has none either."""
    from_now = (await runtime.get_stats()).states
    assert not any(from_now.values())
    await runtime.spawn("later", not_before=Settings().lease)
    assert _messages(redis_url, colony_id) == []
    first = await runtime.spawn("now", idempotency_key="k")
    assert await runtime.spawn("now", idempotency_key="k") == first
    assert len(_messages(redis_url, colony_id)) == 1


def test_a_broker_that_is_away_is_an_error_in_time(nobody_listens: str) -> None:
    """Ringing and looking fail within 2 s, naming the broker without its password."""
    settings = Settings(redis_url=nobody_listens)
    doorbells = Doorbells(celery_app("c", settings), "c", settings)
    for attempt in (lambda: doorbells.ring([Ring("w1", "agent")]), doorbells.depth):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            attempt()
        assert time.monotonic() - began < 2 + SLACK
        assert "password" not in str(caught.value)
        assert nobody_listens.rpartition("@")[2] in str(caught.value)
    doorbells.close()


async def test_a_spawn_without_a_broker_is_accepted(
    colony_id: str, redis_url: str, store: Store, nobody_listens: str
) -> None:
    """Law 1: with the broker away, spawn still returns ids in time; the janitor has the doorbells."""
    async with ColonyRuntime(colony_id, redis_url=redis_url, broker_url=nobody_listens) as runtime:
        began = time.monotonic()
        ids = await runtime.spawn("a task", count=3)
        assert time.monotonic() - began < 2 + SLACK
    assert set(dump(redis_url, store)["doorbells"]) == set(ids)
    assert _messages(redis_url, colony_id) == []
