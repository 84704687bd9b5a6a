"""How much runs at once, and what it costs."""

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, states
from kombu.utils.uuid import uuid
from redis import Redis

from tests.pool.conftest import Node, Send, until

pytestmark = pytest.mark.fleet
MANY = 10_000


def publish(client: Celery, name: str, count: int) -> list[str]:
    """Send `count` calls without results, 500 at a time."""
    ids = [uuid() for _ in range(count)]
    with client.producer_pool.acquire(block=True) as producer, producer.batch(500):
        for id_ in ids:
            client.send_task(name, task_id=id_, ignore_result=True, producer=producer)
    return ids


def ran_once(store: "Redis", ids: list[str]) -> bool:
    counts: list[Any] = store.mget([f"ran:{id_}" for id_ in ids])
    return set(counts) == {"1"}


def test_fifty_of_three_hundred_run_at_once(
    nodes: Callable[..., Node], client: Celery, send: Send, store: "Redis"
) -> None:
    nodes(50)
    ids = publish(client, "pool.gauge", 300)
    until(lambda: ran_once(store, ids))
    assert send("peak").get() == 50


def test_without_disabled_prefetch_the_pool_bounds_itself(
    nodes: Callable[..., Node], client: Celery, send: Send, store: "Redis"
) -> None:
    node = nodes(50, worker_disable_prefetch=False)
    ids = publish(client, "pool.gauge", 300)
    until(lambda: ran_once(store, ids))
    until(lambda: node.pool()["running"] == 0)
    assert send("peak").get() == 50


@pytest.mark.parametrize("terminate", [False, True])
def test_a_queued_task_can_be_revoked(
    nodes: Callable[..., Node], client: Celery, send: Send, store: "Redis", terminate: bool
) -> None:
    node = nodes(3, worker_disable_prefetch=False)
    held = [send("hold"), send("hold"), send("nap", 0.9)]
    node.running(3)
    queued = send("nap", 0)
    until(lambda: node.pool()["backlog"] == 1)
    client.control.revoke(queued.id, terminate=terminate)
    until(lambda: queued.state == states.REVOKED)
    until(lambda: node.pool()["backlog"] == 0)
    send("open_gate")
    assert [result.get() for result in held] == ["held", "held", "slept"]
    assert store.get(f"ran:{queued.id}") is None
    assert queued.state == states.REVOKED


def test_the_pool_grows_and_shrinks(nodes: Callable[..., Node], client: Celery, send: Send) -> None:
    node = nodes(2, worker_disable_prefetch=False)
    held = [send("hold") for _ in range(6)]
    node.running(2)
    client.control.pool_grow(3, destination=[node.name], reply=True)
    node.running(5)
    client.control.pool_shrink(4, destination=[node.name], reply=True)
    assert node.pool()["max-concurrency"] == 1
    client.control.pool_grow(4, destination=[node.name], reply=True)
    client.control.pool_grow(3, destination=[node.name], reply=True)
    node.running(6)
    send("open_gate")
    assert [result.get() for result in held] == ["held"] * 6


def test_ten_thousand_wait_in_one_process_under_400_mb(
    nodes: Callable[..., Node], client: Celery, record_property: Callable[[str, object], None]
) -> None:
    node = nodes(MANY)
    before = node.rss_mb()
    publish(client, "pool.wait", MANY)
    node.running(MANY)
    rss = node.rss_mb()
    record_property("rss_mb", round(rss))
    print(f"{MANY} waiting: {rss:.0f} MB, {before:.0f} MB before")
    assert rss < 400
    # One more would wait for a slot, so the gate is opened by an end, not by a task.
    node.end()
