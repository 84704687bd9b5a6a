"""`ColonyClient`: the runtime's verbs, blocking, for services without an event loop.

    with ColonyClient("survey") as client:
        [worker] = client.spawn("Summarise README.md")
        report = client.wait_for_worker(worker, timeout=60)

A thread of its own runs a `ColonyRuntime`; any number of threads may share one client.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from colony.models import Event
from colony.pipeline.stage import Stage
from colony.runtime import ColonyRuntime
from colony.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    verb: Callable[Concatenate[ColonyRuntime, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[ColonyClient, P], T]:
    """A method that runs the runtime's verb to its end."""

    def method(self: ColonyClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(verb(self._runtime, *args, **kwargs))

    method.__name__, method.__doc__ = verb.__name__, verb.__doc__
    return method


class ColonyClient:
    """The blocking face of `ColonyRuntime`; same verbs, arguments and errors. Use it as ``with``."""

    def __init__(
        self,
        colony_id: str,
        *,
        redis_url: str | None = None,
        broker_url: str | None = None,
        settings: Settings | None = None,
        pipeline: Sequence[Stage] = (),
    ) -> None:
        self._runtime = ColonyRuntime(
            colony_id,
            redis_url=redis_url,
            broker_url=broker_url,
            settings=settings,
            pipeline=pipeline,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="colony-client", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._run(self._runtime.__aenter__())
        except BaseException:
            self._stop_loop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._run(self._runtime.__aexit__(kind, error, trace))
        finally:
            self._stop_loop()

    trigger = _blocking(ColonyRuntime.trigger)
    trigger_and_wait = _blocking(ColonyRuntime.trigger_and_wait)
    put_trigger = _blocking(ColonyRuntime.put_trigger)
    remove_trigger = _blocking(ColonyRuntime.remove_trigger)
    list_triggers = _blocking(ColonyRuntime.list_triggers)
    get_trigger = _blocking(ColonyRuntime.get_trigger)
    get_fires = _blocking(ColonyRuntime.get_fires)
    next_fire_in = _blocking(ColonyRuntime.next_fire_in)
    pause_trigger = _blocking(ColonyRuntime.pause_trigger)
    resume_trigger = _blocking(ColonyRuntime.resume_trigger)
    pause_timers = _blocking(ColonyRuntime.pause_timers)
    resume_timers = _blocking(ColonyRuntime.resume_timers)
    spawn = _blocking(ColonyRuntime.spawn)
    spawn_batch = _blocking(ColonyRuntime.spawn_batch)
    retry_batch = _blocking(ColonyRuntime.retry_batch)
    wait_for_batch = _blocking(ColonyRuntime.wait_for_batch)
    get_batch = _blocking(ColonyRuntime.get_batch)
    get_batch_members = _blocking(ColonyRuntime.get_batch_members)
    get_batch_reports = _blocking(ColonyRuntime.get_batch_reports)
    get_children = _blocking(ColonyRuntime.get_children)
    retry_worker = _blocking(ColonyRuntime.retry_worker)
    wait_for_worker = _blocking(ColonyRuntime.wait_for_worker)
    wait_for_worker_reports = _blocking(ColonyRuntime.wait_for_worker_reports)
    stop_worker = _blocking(ColonyRuntime.stop_worker)
    stop_tree = _blocking(ColonyRuntime.stop_tree)
    stop_batch = _blocking(ColonyRuntime.stop_batch)
    stop_all_workers = _blocking(ColonyRuntime.stop_all_workers)
    get_worker = _blocking(ColonyRuntime.get_worker)
    get_worker_result = _blocking(ColonyRuntime.get_worker_result)
    get_conversation = _blocking(ColonyRuntime.get_conversation)
    list_workers = _blocking(ColonyRuntime.list_workers)
    page_workers = _blocking(ColonyRuntime.page_workers)
    page_quarantine = _blocking(ColonyRuntime.page_quarantine)
    get_summaries = _blocking(ColonyRuntime.get_summaries)
    longest_in = _blocking(ColonyRuntime.longest_in)
    recent_events = _blocking(ColonyRuntime.recent_events)
    create_token = _blocking(ColonyRuntime.create_token)
    list_tokens = _blocking(ColonyRuntime.list_tokens)
    revoke_token = _blocking(ColonyRuntime.revoke_token)
    get_stats = _blocking(ColonyRuntime.get_stats)
    list_nodes = _blocking(ColonyRuntime.list_nodes)
    list_quarantine = _blocking(ColonyRuntime.list_quarantine)
    retry_quarantined = _blocking(ColonyRuntime.retry_quarantined)
    drop_quarantined = _blocking(ColonyRuntime.drop_quarantined)
    put_subscription = _blocking(ColonyRuntime.put_subscription)
    list_subscriptions = _blocking(ColonyRuntime.list_subscriptions)
    pause_subscription = _blocking(ColonyRuntime.pause_subscription)
    resume_subscription = _blocking(ColonyRuntime.resume_subscription)
    remove_subscription = _blocking(ColonyRuntime.remove_subscription)
    list_deliveries = _blocking(ColonyRuntime.list_deliveries)
    get_delivery = _blocking(ColonyRuntime.get_delivery)
    retry_delivery = _blocking(ColonyRuntime.retry_delivery)
    drop_delivery = _blocking(ColonyRuntime.drop_delivery)
    drain_node = _blocking(ColonyRuntime.drain_node)
    list_rejected = _blocking(ColonyRuntime.list_rejected)
    now = _blocking(ColonyRuntime.now)
    queue_depth = _blocking(ColonyRuntime.queue_depth)
    intake_depth = _blocking(ColonyRuntime.intake_depth)
    set_limit = _blocking(ColonyRuntime.set_limit)
    get_limits = _blocking(ColonyRuntime.get_limits)
    pause_intake = _blocking(ColonyRuntime.pause_intake)
    resume_intake = _blocking(ColonyRuntime.resume_intake)

    def events(
        self,
        *,
        types: Iterable[str] | None = None,
        stream_id: str | None = None,
        worker_id: str | None = None,
        after: str | None = None,
        follow: bool = True,
    ) -> Iterator[Event]:
        """As `ColonyRuntime.events`; a plain iterator. Close it, or end the loop, to stop listening."""
        events = self._runtime.events(
            types=types, stream_id=stream_id, worker_id=worker_id, after=after, follow=follow
        )
        try:
            while True:
                try:
                    yield self._run(_next(events))
                except StopAsyncIteration:
                    return
        finally:
            self._run(events.aclose())

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if not self._thread.is_alive():
            coroutine.close()
            raise RuntimeError(
                "ColonyClient is not open: use it as 'with ColonyClient(…) as client'"
            )
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _next(events: AsyncIterator[Event]) -> Event:
    return await anext(events)
