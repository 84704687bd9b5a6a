"""The agent loop of a process: one per process, also after a fork, and what cuts a coroutine."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from workers.loop import Cut, agent_loop, cut_of, run, stop_agent_loop


@pytest.fixture(autouse=True)
def a_fresh_loop() -> Iterator[None]:
    yield
    stop_agent_loop()


async def whereabouts() -> tuple[asyncio.AbstractEventLoop, str]:
    return asyncio.get_running_loop(), threading.current_thread().name


def test_every_coroutine_runs_on_the_same_thread() -> None:
    assert run(whereabouts()) == run(whereabouts()) == (agent_loop(), "agent-loop")


def test_its_error_is_raised_to_who_waits() -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        run(fail())


def test_waiting_on_the_loop_for_the_loop_is_refused() -> None:
    async def nested() -> None:
        run(whereabouts())

    with pytest.raises(RuntimeError, match="would block the agent loop"):
        run(nested())


def test_an_exit_raised_on_it_does_not_end_it() -> None:
    def leave() -> None:
        raise SystemExit(1)

    agent_loop().call_soon_threadsafe(leave)
    assert run(whereabouts())[0] is agent_loop()


def test_stopping_it_cuts_what_runs() -> None:
    reasons: list[Cut | None] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            reasons.append(cut_of(error))
            raise

    asyncio.run_coroutine_threadsafe(wait(), agent_loop())
    before = run(whereabouts())[0]
    stop_agent_loop(grace=10)
    assert reasons == [Cut.SHUTDOWN]
    assert before.is_closed()
    assert agent_loop() is not before


def test_a_forked_child_gets_its_own() -> None:
    parents = run(whereabouts())[0]
    child = os.fork()
    if child == 0:
        os._exit(7 if run(whereabouts())[0] is not parents else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert run(whereabouts())[0] is parents


@pytest.fixture
def soft_limit() -> Iterator[None]:
    """SIGUSR1 raises SoftTimeLimitExceeded in the main thread, as in a prefork child."""

    def raise_it(_number: int, _frame: object) -> None:
        raise SoftTimeLimitExceeded

    before = signal.signal(signal.SIGUSR1, raise_it)
    yield
    signal.signal(signal.SIGUSR1, before)


async def cut_short(then: str) -> Cut | None:
    """Signal the process, then wait for what comes of it."""
    os.kill(os.getpid(), signal.SIGUSR1)
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            if then == "return":
                await asyncio.sleep(0.05)
                return cut_of(error)
            if then == "raise":
                raise
            if then == "fail":
                raise KeyError("its own") from error


@pytest.mark.usefixtures("soft_limit")
def test_a_soft_limit_in_the_waiting_thread_cuts_the_coroutine_which_may_still_return() -> None:
    assert run(cut_short("return")) is Cut.SOFT_TIME_LIMIT


@pytest.mark.usefixtures("soft_limit")
@pytest.mark.parametrize(
    ("then", "error"),
    [
        ("raise", SoftTimeLimitExceeded),
        ("fail", KeyError),
        ("defy", SoftTimeLimitExceeded),
    ],
)
def test_else_the_limit_or_its_own_error_is_raised(then: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        run(cut_short(then), grace=0.1)


def test_a_cancellation_from_elsewhere_has_no_cut() -> None:
    assert cut_of(asyncio.CancelledError()) is None
    assert cut_of(asyncio.CancelledError("terminate")) is None
