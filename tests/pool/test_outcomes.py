"""What a coroutine task comes to, and what ends it early, on one node with many slots."""

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, chord, states
from celery.exceptions import (
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from redis import Redis

from tests.pool.conftest import Node, Send, Sent, until

pytestmark = pytest.mark.fleet


@pytest.fixture(scope="module")
def node(nodes: Callable[..., Node]) -> Node:
    return nodes(200, colony_cut_grace_seconds=0.5)


def test_a_return_value_is_the_result(node: Node, send: Send) -> None:
    assert send("echo", {"a": [1, None]}).get() == {"a": [1, None]}


def test_the_coroutine_is_handed_its_request(node: Node, send: Send) -> None:
    result = send("whoami", kwargs={"loud": True}, headers={"tenant": "t1"})
    answer = result.get()
    assert (answer["id"], answer["queue"], answer["loud"]) == (result.id, "celery", True)
    assert answer["headers"]["tenant"] == "t1"


def test_an_exception_is_the_failure_with_the_place_it_was_raised(node: Node, send: Send) -> None:
    result = send("fail")
    with pytest.raises(ValueError, match=r"^boom$"):
        result.get()
    assert "in raise_boom" in result.meta()["traceback"]


def test_an_exit_fails_its_task_and_leaves_the_node_alone(node: Node, send: Send) -> None:
    with pytest.raises(WorkerLostError):
        send("leave").get()
    assert send("echo", 1).get() == 1


@pytest.mark.parametrize("name", ["ignore", "ignore_quietly"])
def test_ignore_stores_nothing_and_frees_its_slot(
    node: Node, send: Send, store: "Redis", name: str
) -> None:
    result = send(name)
    until(lambda: store.get(f"ran:{result.id}") == "1")
    until(lambda: node.ask("active") == [])
    assert result.state == states.STARTED
    until(lambda: store.hlen("unacked") == 0)
    heard = f"Task pool.{name}[{result.id}] ignored" in node.text()
    assert heard == (name == "ignore")


def test_reject_is_a_failure_that_is_not_run_again(node: Node, send: Send, store: "Redis") -> None:
    result = send("reject")
    until(lambda: result.state == states.FAILURE)
    assert store.get(f"ran:{result.id}") == "1"
    assert node.ask("active") == []


def test_a_plain_task_runs_beside_them(node: Node, send: Send) -> None:
    value, thread = send("plain", 7).get()
    assert (value, thread[:5]) == (7, "plain")


def test_a_chord_of_coroutines_joins(node: Node, client: Celery) -> None:
    parts = [client.signature("pool.echo", (number,)) for number in range(20)]
    body = client.signature("pool.total")
    assert Sent(client, chord(parts, app=client)(body).id).get() == sum(range(20))


def test_the_soft_limit_raises_if_the_coroutine_lets_it(
    node: Node, send: Send, store: "Redis"
) -> None:
    result = send("hold", soft_time_limit=0.2)
    with pytest.raises(SoftTimeLimitExceeded):
        result.get()
    assert store.hget("cuts", result.id) == "soft_time_limit"


def test_the_soft_limit_can_be_caught(node: Node, send: Send) -> None:
    assert send("settle", soft_time_limit=0.2).get() == "settled: soft_time_limit"


def test_the_hard_limit_leaves_time_to_settle(node: Node, send: Send) -> None:
    assert send("settle", time_limit=0.2).get() == "settled: hard_time_limit"


def test_the_hard_limit_fails_a_coroutine_that_just_ends(
    node: Node, send: Send, store: "Redis"
) -> None:
    result = send("hold", time_limit=0.2)
    with pytest.raises(TimeLimitExceeded):
        result.get()
    assert store.hget("cuts", result.id) == "hard_time_limit"


def test_the_hard_limit_abandons_a_coroutine_that_does_not_end(node: Node, send: Send) -> None:
    result = send("defy", soft_time_limit=0.1, time_limit=0.2)
    with pytest.raises(TimeLimitExceeded):
        result.get()
    assert f"{result.id} ignores its cut (hard_time_limit)" in node.text()
    until(lambda: node.pool()["running"] == 0)


def test_terminate_ends_that_one_and_no_other(
    node: Node, send: Send, client: Celery, store: "Redis"
) -> None:
    results = [send("hold") for _ in range(100)]
    node.running(100)
    victim = results.pop(37)
    client.control.revoke(victim.id, terminate=True)
    with pytest.raises(TaskRevokedError):
        victim.get()
    node.running(99)
    assert store.hgetall("cuts").get(victim.id) == "terminate"
    send("open_gate")
    assert [result.get() for result in results] == ["held"] * 99
    assert {store.get(f"ran:{result.id}") for result in results} == {"1"}


def test_what_a_terminated_coroutine_returns_counts_unless_it_was_announced_as_revoked(
    nodes: Callable[..., Node], send: Send, client: Celery, store: "Redis"
) -> None:
    node = nodes(10)
    stopped, settled, revoked = send("hold"), send("settle"), send("settle")
    until(lambda: store.mget([f"ran:{s.id}" for s in (stopped, settled, revoked)]) == ["1"] * 3)
    for sent in (stopped, settled):
        client.control.broadcast("cut", arguments={"task_id": sent.id})
    client.control.revoke(revoked.id, terminate=True)
    assert settled.get() == "settled: terminate"
    for sent in (stopped, revoked):
        with pytest.raises(TaskRevokedError):
            sent.get()
    until(lambda: node.pool()["running"] == 0)
    assert f"{revoked.id} was cut (terminate) and ended with Outcome(value='settled" in node.text()
    assert revoked.state == states.REVOKED


def test_active_and_stats_show_what_runs(nodes: Callable[..., Node], send: Send) -> None:
    node = nodes(2)
    first, second, third = send("hold"), send("hold"), send("hold")
    active = until(lambda: len(found := node.ask("active")) == 2 and found)
    assert {task["id"] for task in active} == {first.id, second.id}
    assert len({task["worker_pid"] for task in active}) == 2
    assert first.state == states.STARTED
    pool: dict[str, Any] = node.pool()
    assert pool["implementation"] == "workers.pool:AsyncioPool"
    assert (pool["max-concurrency"], pool["running"], pool["backlog"]) == (2, 2, 0)
    assert third.state == states.PENDING
