"""Warm, soft and cold shutdown."""

import signal
from collections.abc import Callable

import pytest
from celery import Celery, states
from redis import Redis

from tests.pool.conftest import Node, Send, until

pytestmark = pytest.mark.fleet


def test_sigterm_finishes_what_runs_and_exits_0(
    nodes: Callable[..., Node], send: Send, store: "Redis"
) -> None:
    node = nodes(20)
    results = [send("nap", 0.5) for _ in range(20)]
    node.running(20)
    node.signal(signal.SIGTERM)
    assert node.exit_code() == 0
    assert [result.state for result in results] == [states.SUCCESS] * 20


def test_sigterm_finishes_what_the_pool_has_queued_too(
    nodes: Callable[..., Node], send: Send, store: "Redis"
) -> None:
    node = nodes(2, worker_disable_prefetch=False)
    results = [send("nap", 0.7) for _ in range(4)]
    until(lambda: node.pool()["backlog"] == 2)
    node.signal(signal.SIGTERM)
    assert node.exit_code() == 0
    assert [result.state for result in results] == [states.SUCCESS] * 4
    assert {store.get(f"ran:{result.id}") for result in results} == {"1"}
    assert (store.llen("celery"), store.hlen("unacked")) == (0, 0)


def test_sigquit_cuts_what_runs_with_shutdown(
    nodes: Callable[..., Node], send: Send, store: "Redis"
) -> None:
    node = nodes(4, colony_cut_grace_seconds=2)
    held, settled = send("hold"), send("settle")
    until(lambda: all(store.get(f"ran:{sent.id}") for sent in (held, settled)))
    node.signal(signal.SIGQUIT)
    assert node.exit_code() in (0, 1)
    assert store.hget("cuts", held.id) == "shutdown"
    assert held.state == states.RETRY  # what Celery stores for an acknowledged task it cancels
    assert settled.get() == "settled: shutdown"
    assert "Traceback" not in node.text()


def test_sigquit_loses_no_outcome_while_celery_stores_that_it_cancels_the_task(
    nodes: Callable[..., Node], send: Send, store: "Redis"
) -> None:
    """Celery reads that there is no SUCCESS, then writes RETRY; here it is slow in between."""
    node = nodes(4, result_backend="pool_app:SlowToRetry")
    settled = send("settle")
    until(lambda: store.get(f"ran:{settled.id}"))
    node.signal(signal.SIGQUIT)
    node.exit_code()
    assert settled.meta()["result"] == "settled: shutdown"


def test_sigquit_does_not_wait_for_a_coroutine_that_defies_it(
    nodes: Callable[..., Node], send: Send, store: "Redis"
) -> None:
    node = nodes(1, worker_disable_prefetch=False, colony_cut_grace_seconds=0.5)
    defiant, queued = send("defy"), send("nap", 0)
    until(lambda: store.get(f"ran:{defiant.id}") and node.pool()["backlog"] == 1)
    node.signal(signal.SIGQUIT)
    node.exit_code(10)
    assert f"{defiant.id} ignores its cut (shutdown)" in node.text()
    assert store.get(f"ran:{queued.id}") is None
    assert store.llen("celery") == 1  # it goes back, for another node


def test_a_soft_shutdown_lets_short_ones_end_and_cuts_the_rest(
    nodes: Callable[..., Node], send: Send, store: "Redis"
) -> None:
    node = nodes(4, worker_soft_shutdown_timeout=1.0)
    long, short = send("settle"), send("nap", 0.5)
    until(lambda: all(store.get(f"ran:{sent.id}") for sent in (short, long)))
    node.signal(signal.SIGQUIT)
    node.exit_code()
    assert short.get() == "slept"
    assert long.get() == "settled: shutdown"


def test_a_late_acknowledged_task_goes_back_to_the_queue(
    nodes: Callable[..., Node], send: Send, store: "Redis"
) -> None:
    node = nodes(4, task_acks_late=True)
    held = send("hold")
    until(lambda: store.get(f"ran:{held.id}"))
    node.signal(signal.SIGQUIT)
    node.exit_code()
    assert store.hget("cuts", held.id) == "shutdown"
    assert store.llen("celery") == 1


def test_an_outcome_that_cannot_be_stored_frees_its_slot(
    nodes: Callable[..., Node], client: Celery, send: Send, store: "Redis"
) -> None:
    node = nodes(4, result_backend="redis://127.0.0.1:1/0", result_backend_always_retry=False)
    send("nap", 0, ignore_result=False)
    until(lambda: "its outcome was not recorded" in node.text())
    until(lambda: node.pool()["running"] == 0)
    assert node.ask("active") == []
