"""The pool of synchronous tools."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from workers.agent.threads import GivenUp, ToolThreads


async def test_it_runs_no_more_than_its_size_and_uses_threads_again() -> None:
    pool, names, lock, running, most = ToolThreads(3), set(), threading.Lock(), 0, 0

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        names.add(threading.get_ident())
        time.sleep(0.005)
        with lock:
            running -= 1

    await asyncio.gather(*(pool.run(work, timeout=5) for _ in range(30)))
    assert most == 3 == len(names)
    pool.close()


async def test_time_counts_from_when_a_thread_takes_the_call() -> None:
    pool = ToolThreads(1)
    calls = [pool.run(lambda: time.sleep(0.06), timeout=0.1) for _ in range(4)]
    await asyncio.gather(*calls)
    assert pool.hung == 0
    pool.close()


async def test_a_call_given_up_before_it_began_never_begins() -> None:
    pool, release, ran = ToolThreads(1), threading.Event(), []
    first = asyncio.create_task(pool.run(release.wait, timeout=60))
    second = asyncio.create_task(pool.run(lambda: ran.append(1), timeout=60))
    await asyncio.sleep(0.01)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    release.set()
    assert await first is True
    await pool.run(lambda: None, timeout=1)
    assert ran == []
    pool.close()


async def test_those_that_wait_get_the_place_of_a_hung_one() -> None:
    pool, release = ToolThreads(1), threading.Event()
    hung = asyncio.create_task(pool.run(release.wait, timeout=0.03))
    waits = asyncio.create_task(pool.run(lambda: "ran", timeout=1))
    with pytest.raises(GivenUp):
        await hung
    assert await waits == "ran"
    assert pool.hung == 1
    release.set()
    while pool.hung:
        await asyncio.sleep(0.001)
    assert await pool.run(lambda: "again", timeout=1) == "again"
    pool.close()


async def test_errors_come_through_and_own_timeouts_are_told_apart() -> None:
    pool = ToolThreads(1)

    def fail() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine") as caught:
        await pool.run(fail, timeout=1)
    assert not isinstance(caught.value, GivenUp)
    pool.close()


async def test_closed_it_refuses_and_its_threads_end() -> None:
    pool = ToolThreads(2)
    idents = {await pool.run(threading.get_ident, timeout=1)}
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        await pool.run(lambda: None, timeout=1)
    while idents & {thread.ident for thread in threading.enumerate()}:
        await asyncio.sleep(0.001)


def test_a_size_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ToolThreads(0)
