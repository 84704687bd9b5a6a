"""`colony doctor` on a real Redis in each kind of trouble, and on nodes that do not do well."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from redis import Redis

from colony.cli.doctor import _ailing, diagnose
from colony.cli.findings import Finding, Level
from colony.models import NodeInfo
from colony.redis_server import EmbeddedRedis
from colony.settings import Settings


@pytest.fixture
def server() -> Iterator[EmbeddedRedis]:
    """A Redis that may be misconfigured."""
    with EmbeddedRedis() as server:
        yield server


def findings(server: EmbeddedRedis) -> dict[str, Finding]:
    """What is found, by check."""

    async def look() -> list[Finding]:
        return [f async for f in diagnose(None, None, Settings(redis_url=server.url))]

    return {finding.check: finding for finding in asyncio.run(look())}


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
