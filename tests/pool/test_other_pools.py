"""The same coroutine tasks under Celery's own pools, where a thread or process waits for each."""

import signal
from collections.abc import Callable

import pytest
from celery import Celery, chord
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

from tests.pool.conftest import Node, Send, Sent

pytestmark = pytest.mark.fleet


@pytest.mark.parametrize("pool", ["threads", "processes", "solo"])
def test_the_same_task_under(
    nodes: Callable[..., Node], client: Celery, send: Send, pool: str
) -> None:
    node = nodes(2, pool, task_track_started=False)
    assert send("echo", "x").get() == "x"
    assert send("whoami").get()["queue"] == "celery"
    failed = send("fail")
    with pytest.raises(ValueError, match=r"^boom$"):
        failed.get()
    assert "in raise_boom" in failed.meta()["traceback"]
    parts = [client.signature("pool.echo", (number,)) for number in range(5)]
    joined = chord(parts, app=client)(client.signature("pool.total"))
    assert Sent(client, joined.id).get() == 10
    node.signal(signal.SIGTERM)
    assert node.exit_code() == 0


def test_preforks_soft_limit_cuts_the_coroutine(nodes: Callable[..., Node], send: Send) -> None:
    nodes(2, "processes")
    assert send("settle", soft_time_limit=1).get() == "settled: soft_time_limit"
    with pytest.raises(SoftTimeLimitExceeded):
        send("hold", soft_time_limit=1).get()
    with pytest.raises(TimeLimitExceeded):
        send("defy", soft_time_limit=1, time_limit=2).get()
