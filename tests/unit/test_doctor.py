"""`colony doctor` on a real Redis in each kind of trouble, and on nodes that do not do well."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis import Redis

from colony.cli.doctor import _ailing, _versions, diagnose
from colony.cli.findings import Finding, Level
from colony.listing import WorkerSummary
from colony.models import NodeInfo, WorkerState
from colony.redis_server import EmbeddedRedis
from colony.settings import Settings
from colony.store import Link, Refusal, Store
from tests.store.kit import LEASE, SOON, one
from tests.unit.cli_kit import call, registered_colony


@pytest.fixture
def server() -> Iterator[EmbeddedRedis]:
    """A Redis that may be misconfigured."""
    with EmbeddedRedis() as server:
        yield server


def looked_at(url: str) -> dict[str, Finding]:
    """What is found, by check."""

    async def look() -> list[Finding]:
        return [f async for f in diagnose(None, None, Settings(redis_url=url))]

    return {finding.check: finding for finding in asyncio.run(look())}


def findings(server: EmbeddedRedis) -> dict[str, Finding]:
    """The same."""
    return looked_at(server.url)


def test_a_sound_server_has_nothing_to_say_of_role_and_room(server: EmbeddedRedis) -> None:
    found = findings(server)
    assert found["Redis"].level is Level.OK
    assert not {"Redis role", "Redis room", "Redis disk", "Redis state"} & found.keys()


def test_an_evicting_server_is_a_problem_once_it_has_a_limit(server: EmbeddedRedis) -> None:
    with Redis.from_url(server.url) as operator:
        operator.config_set("maxmemory-policy", "allkeys-lru")
        assert findings(server)["Redis memory"].level is Level.WARNING
        operator.config_set("maxmemory", str(2**30))
        found = findings(server)["Redis memory"]
    assert found.level is Level.PROBLEM
    assert "noeviction" in (found.remedy or "")


@pytest.mark.parametrize(
    ("used", "level"), [(0.5, Level.OK), (0.9, Level.WARNING), (1.5, Level.PROBLEM)]
)
def test_a_server_says_how_near_it_is_to_its_limit(
    server: EmbeddedRedis, used: float, level: Level
) -> None:
    with Redis.from_url(server.url) as operator:
        operator.eval("redis.call('SET', 'ballast', string.rep('x', 20000000))", 0)
        memory = int(operator.info("memory")["used_memory"])
        operator.config_set("maxmemory", str(int(memory / used)))
    found = findings(server)["Redis room"]
    assert found.level is level
    assert ("raise maxmemory" in (found.remedy or "")) is (level is not Level.OK)


def test_a_replica_is_a_problem(server: EmbeddedRedis) -> None:
    with Redis.from_url(server.url) as operator:
        operator.replicaof("127.0.0.1", "1")
    found = findings(server)["Redis role"]
    assert found.level is Level.PROBLEM
    assert "a replica of 127.0.0.1:1" in found.found


def no_replica(operator: Redis) -> None:
    operator.config_set("min-replicas-to-write", "1")


def no_save(operator: Redis) -> None:
    """A directory is where the snapshot should go."""
    where = operator.config_get("dir")["dir"] or ""
    Path(where, operator.config_get("dbfilename")["dbfilename"] or "").mkdir()
    operator.config_set("save", "3600 1")
    operator.bgsave()
    while operator.info("persistence")["rdb_last_bgsave_status"] == "ok":
        time.sleep(0.02)


def no_memory(operator: Redis) -> None:
    operator.config_set("maxmemory", "1")


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (no_replica, ["fewer replicas than its min-replicas-to-write", "good replicas now: 0"]),
        (no_save, ["cannot save to its disk", "last background save failed", "BGSAVE"]),
        (no_memory, ["out of memory", "raise maxmemory"]),
    ],
)
def test_a_server_that_refuses_writes_says_why(
    trouble: Callable[[Redis], None], words: list[str]
) -> None:
    """And nobody is told to start nodes, whose leases cannot be renewed."""
    with registered_colony("shop") as url, Redis.from_url(url) as operator:
        assert "Redis writes" not in looked_at(url)
        size = operator.dbsize()
        trouble(operator)
        found = looked_at(url)
        assert operator.dbsize() == size
    writes = found["Redis writes"]
    assert writes.level is Level.PROBLEM
    assert all(word in writes.found for word in words), writes.found
    after = found["nodes"] if "nodes" in found else found["colony"]
    assert (after.remedy or "").startswith("mend")


def test_a_database_that_does_not_exist_is_no_wrong_password(server: EmbeddedRedis) -> None:
    found = looked_at(server.url.rpartition("/")[0] + "/99")["Redis reachable"]
    assert "no database of the number" in found.found
    assert "password" not in f"{found.found} {found.remedy}"


def test_a_server_without_a_free_connection_is_told_apart(server: EmbeddedRedis) -> None:
    with Redis.from_url(server.url) as operator:
        operator.config_set("maxclients", "1")
        found = looked_at(server.url)["Redis reachable"]
    assert "raise maxclients" in found.found
    assert found.remedy is None


def test_workers_of_a_version_that_no_node_has_are_found() -> None:
    """Not those whose version lives, and none while no node does: that is another finding."""
    now = datetime.now(UTC)
    old, new = [
        WorkerSummary(
            worker_id=f"w{version}",
            state=WorkerState.PENDING,
            agent="agent",
            task="Do it.",
            stream_id="s",
            root_id=f"w{version}",
            waits_for=f"version {version}",
            created_at=now,
            since=now,
        )
        for version in ("0.9", "1")
    ]
    [found] = _versions([node()], [old, new])
    assert found.level is Level.PROBLEM
    assert "version 0.9" in found.found
    assert "w0.9" in found.found
    assert "start a node of version 0.9" in (found.remedy or "")
    assert list(_versions([node()], [new])) == []
    assert list(_versions([], [old])) == []


def test_a_worker_that_waits_for_a_version_makes_the_exit_code_1() -> None:
    """As a node of another version leaves it that was rung for it."""
    about = {**node().model_dump(include={"host", "pid", "pool", "concurrency"}), "version": "1"}

    async def refused(url: str) -> str:
        link = Link(url, patience=SOON)
        store = Store(link, "shop")
        await store.beat("n1", lease=LEASE, about=about, join=True)
        worker_id = await one(store)
        await link.call("HSET", store.keys("worker", worker_id), "version", "0.9")
        got = await store.claim(worker_id, node="n1", token="t", version="1")
        await link.close()
        assert got is Refusal.VERSION
        return worker_id

    with registered_colony("shop") as url:
        assert call("doctor", "--redis-url", url)[0] == 1, "no node lives"
        worker_id = asyncio.run(refused(url))
        found = looked_at(url)["versions"]
        code, out, _ = call("doctor", "--redis-url", url)
    assert worker_id in found.found
    assert (code, "start a node of version 0.9" in out) == (1, True)


def node(*, lag_ms: int = 0, silent_ms: int = 0) -> NodeInfo:
    """A living node."""
    return NodeInfo(
        node="n@h/1",
        host="h",
        pid=2,
        pool="asyncio",
        concurrency=1,
        version="1",
        started_at=datetime.now(UTC),
        lease_seconds=3,
        lag_ms=lag_ms,
        silent_ms=silent_ms,
    )


def test_a_node_with_lag_and_a_deaf_one_are_found() -> None:
    assert list(_ailing([node(lag_ms=300, silent_ms=1500)])) == []
    [lag] = _ailing([node(lag_ms=2500)])
    assert (lag.level, "blocked for 2.5 s" in lag.found) == (Level.WARNING, True)
    [deaf] = _ailing([node(silent_ms=14_000)])
    assert (deaf.level, "for 14 s" in deaf.found) == (Level.PROBLEM, True)


def test_references_that_do_not_resolve_are_named_without_values(
    server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = "tests.fleet.pipeline_definitions:trusted"

    async def look() -> list[Finding]:
        found = diagnose(definition, None, Settings(redis_url=server.url))
        return [finding async for finding in found if finding.check == "credentials"]

    monkeypatch.setenv("TEST_PLANTED", "pl4nted")
    findings = asyncio.run(look())
    assert {finding.level for finding in findings} == {Level.WARNING}
    assert [finding.found.partition(" is not")[0] for finding in findings] == [
        "account 'mounted': its vault failed with KeyError",
        "account 'missing': env:TEST_NOT_SET: this environment variable",
    ]
    monkeypatch.setenv("TEST_PLANTED_TOO", "pl4nted")
    monkeypatch.setenv("TEST_NOT_SET", "pl4nted")
    [good] = asyncio.run(look())
    assert (good.level, "pl4nted" in good.found) == (Level.OK, False)
