"""Redis that answers and refuses: each trouble is told apart, and nodes go on when it is over."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from redis import Redis

from colony import ColonyRuntime, ReportStatus
from colony.errors import (
    StoreDenied,
    StoreLoading,
    StoreOutOfMemory,
    StoreReadOnly,
    StoreUnavailable,
)
from colony.models import WorkerState
from colony.redis_server import EmbeddedRedis
from colony.settings import Settings
from colony.testing import Fleet, wait_until
from tests.fleet.helpers import assert_told_once, records, statuses, wait_for_state
from tests.proxy import Proxy

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio]

TOLD_WITHIN = 2.0
TROUBLE_SECONDS = 6.0
LEASE = 2.0

Order = Callable[["Redis"], object]


def fill(redis: Redis) -> None:
    """Out of memory from now on."""
    redis.config_set("maxmemory", "1")


def empty(redis: Redis) -> None:
    """Memory again."""
    redis.config_set("maxmemory", "0")


def demote(redis: Redis) -> None:
    """A replica, of a primary that is not there."""
    redis.replicaof("127.0.0.1", "1")


def promote(redis: Redis) -> None:
    """A primary again."""
    redis.replicaof("NO", "ONE")


TROUBLES = {
    "memory": (fill, empty, StoreOutOfMemory, "out of memory.*raise maxmemory"),
    "replica": (demote, promote, StoreReadOnly, "read-only replica.*point COLONY_REDIS_URL at"),
}


@pytest_asyncio.fixture
async def server() -> AsyncIterator[EmbeddedRedis]:
    """A Redis that may be troubled."""
    with EmbeddedRedis(debug=True) as server:
        yield server


@pytest_asyncio.fixture
async def running(server: EmbeddedRedis) -> AsyncIterator[Fleet]:
    """One node and a producer."""
    async with Fleet(
        "tests.fleet.definitions:deadly",
        redis_url=server.url,
        lease=str(LEASE),
        beat_interval="0.4",
    ) as fleet:
        yield fleet


async def told(runtime: ColonyRuntime, error: type[StoreUnavailable], words: str) -> None:
    """A spawn fails in time, with this error and these words."""
    began = time.monotonic()
    with pytest.raises(error, match=words) as caught:
        await runtime.spawn("fetch")
    assert type(caught.value) is error
    assert time.monotonic() - began < TOLD_WITHIN


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_nodes_go_on_when_the_trouble_is_over(running: Fleet, trouble: str) -> None:
    """Two leases and more of it: the producer is told at once; no worker ends or moves for it, and
    what was running reports when it is over."""
    begin, end, error, words = TROUBLES[trouble]
    runtime, [node] = running.runtime, running.nodes
    ids = await runtime.spawn("doze", count=10)
    await wait_for_state(runtime, WorkerState.RUNNING, 10)
    with Redis.from_url(running.redis_url) as operator:
        begin(operator)
        until = time.monotonic() + TROUBLE_SECONDS
        await told(runtime, error, words)
        await wait_until(lambda: time.monotonic() > until, TROUBLE_SECONDS + 5)
        await wait_until(lambda: re.search(words, node.tail(1000)), what="the node says so")
        await told(runtime, error, words)
        end(operator)
    reports = await runtime.wait_for_worker_reports(ids, timeout=25)
    assert [r for r in reports if not r.ok] == [], node.tail(400)
    done = await records(runtime, ids)
    assert {(record.epoch, record.resurrections) for record in done} == {(1, 0)}
    await assert_told_once(runtime, ids)
    after = await runtime.spawn("fetch", count=5)
    answers = await runtime.wait_for_worker_reports(after, timeout=15)
    assert statuses(answers) == {ReportStatus.SUCCESS: 5}
    assert node.process.poll() is None


async def test_a_redis_that_loads_is_not_taken_for_away(running: Fleet) -> None:
    """It reads its data for seconds: producers hear so, nodes wait and go on."""
    runtime, [node] = running.runtime, running.nodes
    ids = await runtime.spawn("doze", count=5)
    await wait_for_state(runtime, WorkerState.RUNNING, 5)
    with Redis.from_url(running.redis_url, socket_timeout=60) as operator:
        with operator.pipeline(transaction=False) as ballast:
            for number in range(60_000):
                ballast.set(f"ballast:{number}", "x")
            ballast.execute()
        operator.config_set("key-load-delay", 20)
        loading = threading.Thread(target=operator.execute_command, args=("DEBUG", "LOADAOF"))
        loading.start()
        with Redis.from_url(running.redis_url) as looker:
            await wait_until(lambda: looker.info("persistence")["loading"] == 1, 10)
        await told(runtime, StoreLoading, "still loads its data: try again")
        await asyncio.to_thread(loading.join)
        operator.config_set("key-load-delay", 0)
    reports = await runtime.wait_for_worker_reports(ids, timeout=25)
    assert statuses(reports) == {ReportStatus.SUCCESS: 5}
    done = await records(runtime, ids)
    assert {(record.epoch, record.resurrections) for record in done} == {(1, 0)}
    assert node.process.poll() is None


@pytest.mark.parametrize(
    ("login", "words"),
    [
        ("", "wants a password: put it into the URL"),
        (":wrong-secret@", "does not take this user and password"),
        ("reader:right@", "refuses user .reader. the command .hget.: extend its ACL"),
    ],
)
async def test_a_wrong_login_is_told_at_once(server: EmbeddedRedis, login: str, words: str) -> None:
    """No password, a wrong one, a user without rights: told apart, within 2 s, without the secret."""
    with Redis.from_url(server.url) as operator:
        operator.execute_command(
            "ACL", "SETUSER", "reader", "on", ">right", "~*", "+info", "+hello"
        )
        operator.config_set("requirepass", "secret")
    url = server.url.replace("redis://", f"redis://{login}")
    began = time.monotonic()
    with pytest.raises(StoreDenied, match=words) as caught:
        async with ColonyRuntime("any", settings=Settings(redis_url=url)) as runtime:
            await runtime.spawn("fetch")
    assert time.monotonic() - began < TOLD_WITHIN
    assert "secret" not in str(caught.value)
    assert "right@" not in str(caught.value)


async def test_a_node_whose_password_was_changed_waits_for_it(
    running: Fleet, server: EmbeddedRedis
) -> None:
    """Its connections are cut and it cannot log in again: it says so, and goes on when it can."""
    runtime, [node] = running.runtime, running.nodes
    ids = await runtime.spawn("doze", count=5)
    await wait_for_state(runtime, WorkerState.RUNNING, 5)
    with Redis.from_url(server.url) as operator:
        operator.config_set("requirepass", "secret")
        operator.client_kill_filter(_type="normal", skipme=True)
        until = time.monotonic() + TROUBLE_SECONDS
        await wait_until(lambda: time.monotonic() > until, TROUBLE_SECONDS + 5)
        operator.config_set("requirepass", "")
    reports = await runtime.wait_for_worker_reports(ids, timeout=25)
    assert statuses(reports) == {ReportStatus.SUCCESS: 5}
    done = await records(runtime, ids)
    assert {(record.epoch, record.resurrections) for record in done} == {(1, 0)}
    assert "wants a password" in node.tail(1000)
    after = await runtime.spawn("fetch", count=5)
    answers = await runtime.wait_for_worker_reports(after, timeout=15)
    assert statuses(answers) == {ReportStatus.SUCCESS: 5}


async def test_a_node_follows_a_failover_behind_a_name() -> None:
    """The primary becomes a replica of its replica, and the name of both leads to the new one; no
    connection is cut: the node goes on there, with what it runs, and takes new work."""
    with EmbeddedRedis() as old, EmbeddedRedis() as new, Proxy(old.url) as name:
        async with Fleet(
            "tests.fleet.definitions:deadly",
            redis_url=name.url,
            lease=str(LEASE),
            beat_interval="0.4",
        ) as running:
            runtime = running.runtime
            ids = await runtime.spawn("doze", count=10)
            await wait_for_state(runtime, WorkerState.RUNNING, 10)
            with Redis.from_url(old.url) as first, Redis.from_url(new.url) as second:
                second.replicaof("127.0.0.1", str(old.port))

                def is_copied() -> bool:
                    return bool(second.info("replication").get("master_link_status") == "up")

                await wait_until(is_copied, 10, what="the replica has all")
                second.replicaof("NO", "ONE")
                name.lead_to(new.url)
                first.replicaof("127.0.0.1", str(new.port))
            reports = await runtime.wait_for_worker_reports(ids, timeout=25)
            assert statuses(reports) == {ReportStatus.SUCCESS: 10}
            await assert_told_once(runtime, ids)
            after = await runtime.spawn("nap", count=5)
            answers = await runtime.wait_for_worker_reports(after, timeout=20)
            assert statuses(answers) == {ReportStatus.SUCCESS: 5}
            [node] = running.nodes
            assert node.process.poll() is None
            node.terminate()
            assert node.wait() == 0
