"""Webhooks out: signed, at least once with one id, tried again, given up in the end, never sent inside."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from redis import Redis

from colony.errors import UnknownDelivery
from colony.models import OnComplete, Subscription
from colony.runtime import ColonyRuntime
from colony.testing import Fleet, wait_until
from tests.fleet.receiver import OLDER, SECRET, Answer, Received, Receiver, receiving

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

HOOK, OLD_HOOK = "env:COLONY_HOOK_SECRET", "env:COLONY_OLD_HOOK_SECRET"
RETRIES = 2
NODE: dict[str, Any] = {
    "hook_secret": SECRET,
    "old_hook_secret": OLDER,
    "sweep_interval": "0.1",
    "delivery_timeout": "1",
    "delivery_retries": "0.2,0.3",
    "delivery_allow_private": "127.0.0.1/32",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet() -> AsyncIterator[Fleet]:
    """A node that may call loopback; at the end nothing is owed."""
    async with Fleet("tests.fleet.webhook_definitions:hooks", **NODE) as running:
        yield running
        assert await running.runtime.list_deliveries() == []


@pytest.fixture
def runtime(fleet: Fleet) -> ColonyRuntime:
    """The fleet's producer."""
    return fleet.runtime


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """One for each test."""
    with receiving() as made:
        yield made


def hook(receiver: Receiver, path: str, *secrets: str) -> OnComplete:
    """Tell this receiver."""
    return OnComplete(url=receiver.url(path), secret=secrets or (HOOK,))


async def came(
    receiver: Receiver, path: str, count: int = 1, timeout: float = 10
) -> list[Received]:
    """Wait for that many requests."""
    what = f"{count} requests at {path}"
    await wait_until(lambda: len(receiver.at(path)) >= count, timeout, what=what)
    return receiver.at(path)


async def given_up(runtime: ColonyRuntime, delivery_id: str) -> str:
    """Wait until a delivery is dead; its error."""

    async def dead() -> str | None:
        found = await runtime.get_delivery(delivery_id)
        return found.error if found is not None and found.dead else None

    return str(await wait_until(dead, 10, what=f"{delivery_id} is given up"))


async def settled(runtime: ColonyRuntime) -> None:
    """Wait until nothing is owed."""

    async def none() -> bool:
        return not await runtime.list_deliveries()

    await wait_until(none, 10, what="nothing is owed")


async def test_a_batch_and_each_worker_are_told_once_and_signed(
    runtime: ColonyRuntime, receiver: Receiver
) -> None:
    """The library verifies what comes; one webhook-id each; the batch's counts, the worker's report."""
    batch = await runtime.spawn_batch(["fetch", "fail"], on_complete=hook(receiver, "/batch"))
    workers = await runtime.spawn("fetch", count=2, on_complete=hook(receiver, "/worker"))
    [told] = await came(receiver, "/batch")
    payload = told.verified()
    assert (told.id, payload["type"]) == (f"{batch.id}_completed", "batch.completed")
    assert payload["timestamp"].endswith("Z")
    assert payload["data"]["colony_id"] == "hooks"
    assert payload["data"]["joined_at"] == payload["timestamp"]
    assert payload["data"]["counts"] == {"success": 1, "failed": 1}
    each = {request.id: request.verified() for request in await came(receiver, "/worker", 2)}
    assert set(each) == {f"{worker}_completed" for worker in workers}
    for worker in workers:
        report = each[f"{worker}_completed"]["data"]
        assert (report["worker_id"], report["status"]) == (worker, "success")
        assert report["data"] == {"rows": 5}
    await settled(runtime)
    assert (len(receiver.at("/batch")), len(receiver.at("/worker"))) == (1, 2)


async def test_a_single_worker_tells_a_celery_task_too(
    fleet: Fleet, runtime: ColonyRuntime
) -> None:
    """on_complete of spawn with a task: one message with the report, whose id derives from the worker's."""
    told = OnComplete(task="shop.one", queue="shop-one")
    [worker] = await runtime.spawn("fetch", on_complete=told)
    with Redis.from_url(fleet.redis_url) as redis:
        await wait_until(lambda: redis.llen("shop-one"), 10, what="the producer's task is sent")
        [raw] = redis.lrange("shop-one", 0, -1)
    envelope = json.loads(raw)
    [[report], _, _] = json.loads(base64.b64decode(envelope["body"]))
    assert envelope["headers"]["id"] == f"{worker}.complete"
    assert (report["worker_id"], report["status"]) == (worker, "success")


async def test_a_report_that_is_too_large_comes_without_its_content(
    runtime: ColonyRuntime, receiver: Receiver
) -> None:
    """More than 8 KB: ids, status and data_omitted; the whole is asked for by its id."""
    [worker] = await runtime.spawn("big-report", on_complete=hook(receiver, "/big"))
    [told] = await came(receiver, "/big")
    assert len(told.body) < 1000
    data = told.verified()["data"]
    assert (data["worker_id"], data["data_omitted"]) == (worker, True)


async def test_what_fails_is_sent_again_with_the_same_id(
    runtime: ColonyRuntime, receiver: Receiver
) -> None:
    """500, then 503 with Retry-After: sent again by the schedule, and not before the receiver wants it."""
    receiver.answers["/flaky"] = [Answer(500), Answer(503, {"Retry-After": "2"}), Answer()]
    [worker] = await runtime.spawn("fetch", on_complete=hook(receiver, "/flaky"))
    first, second, third = await came(receiver, "/flaky", 3)
    assert {first.id, second.id, third.id} == {f"{worker}_completed"}
    assert first.body == second.body == third.body
    assert 0.2 <= second.at - first.at < 1.5
    assert third.at - second.at >= 1.9
    third.verified()
    await settled(runtime)
    assert await runtime.get_delivery(f"{worker}_completed") is None


async def test_what_fails_for_good_is_kept_and_can_be_sent_again(
    runtime: ColonyRuntime, receiver: Receiver
) -> None:
    """After the last retry it is dead, with the reason; a retry delivers it, with the same id."""
    before = (await runtime.get_stats()).totals
    receiver.answers["/dead"] = [Answer(500)]
    [worker] = await runtime.spawn("fetch", on_complete=hook(receiver, "/dead"))
    name = f"{worker}_completed"
    assert await given_up(runtime, name) == "answered 500 Internal Server Error"
    assert len(receiver.at("/dead")) == 1 + RETRIES
    assert name in [delivery.id for delivery in await runtime.list_deliveries(dead=True)]
    receiver.answers["/dead"] = [Answer()]
    await runtime.retry_delivery(name)
    assert (await came(receiver, "/dead", 2 + RETRIES))[-1].id == name
    await settled(runtime)
    with pytest.raises(UnknownDelivery, match="colony deliveries list"):
        await runtime.retry_delivery(name)
    after = (await runtime.get_stats()).totals
    told = {k: after[k] - before.get(k, 0) for k in after if k.startswith("deliver")}
    assert told == {"delivery_failed": 1 + RETRIES, "delivery_dead": 1, "delivered": 1}


async def test_a_redirect_is_not_followed(runtime: ColonyRuntime, receiver: Receiver) -> None:
    """302 is a failure; what it points to is not called."""
    receiver.answers["/moved"] = [Answer(302, {"Location": receiver.url("/inside")})]
    [worker] = await runtime.spawn("fetch", on_complete=hook(receiver, "/moved"))
    assert "redirects are not followed" in await given_up(runtime, f"{worker}_completed")
    assert receiver.at("/inside") == []
    await runtime.drop_delivery(f"{worker}_completed")


async def test_a_receiver_that_is_gone_ends_it_at_once(
    runtime: ColonyRuntime, receiver: Receiver
) -> None:
    """410: no retry; a subscription is paused and says why, and goes on where it was when it is resumed."""
    receiver.answers["/gone"] = [Answer(410)]
    [worker] = await runtime.spawn("fetch", on_complete=hook(receiver, "/gone"))
    assert "410 Gone" in await given_up(runtime, f"{worker}_completed")
    assert len(receiver.at("/gone")) == 1

    receiver.answers["/left"] = [Answer(410)]
    await runtime.put_subscription(subscription("left", receiver, "/left", "subagent_report"))
    await runtime.spawn("fetch")
    await came(receiver, "/left")

    async def paused() -> bool:
        [info] = await runtime.list_subscriptions()
        return not info.enabled and info.reason == "answered 410 Gone"

    await wait_until(paused, 10, what="the subscription is paused")
    [missed] = await runtime.spawn("fetch")
    await runtime.wait_for_worker(missed, timeout=10)
    assert len(receiver.at("/left")) == 1
    receiver.answers["/left"] = [Answer()]
    await runtime.resume_subscription("left")
    later = (await came(receiver, "/left", 2))[1].verified()
    assert later["data"]["worker_id"] == missed
    await runtime.remove_subscription("left")
    await settled(runtime)


async def test_a_slow_receiver_delays_only_itself(
    runtime: ColonyRuntime, receiver: Receiver
) -> None:
    """Ten to a receiver that never answers, one to another: that one comes at once. The ten are given up."""
    receiver.answers["/slow"] = [Answer(held=True)]
    with receiving() as other:
        slow = await runtime.spawn("fetch", count=10, on_complete=hook(receiver, "/slow"))
        await came(receiver, "/slow")
        await runtime.spawn("fetch", on_complete=hook(other, "/quick"))
        await came(other, "/quick", timeout=2)
    assert len(receiver.at("/slow")) <= 8, "at most 4 at once to one origin, for 1 s each"
    assert await given_up(runtime, f"{slow[0]}_completed") == "no answer within 1 s"
    for worker in slow:
        await runtime.drop_delivery(f"{worker}_completed")
    receiver.let_go.set()


async def test_two_secrets_sign_side_by_side(runtime: ColonyRuntime, receiver: Receiver) -> None:
    """While a receiver changes its secret, both the old and the new one verify."""
    told = hook(receiver, "/rotated", HOOK, OLD_HOOK)
    await runtime.spawn("fetch", on_complete=told)
    [request] = await came(receiver, "/rotated")
    assert len(request.headers["webhook-signature"].split()) == 2
    assert request.verified(SECRET) == request.verified(OLDER)


async def test_a_secret_that_is_not_there_is_told_and_nothing_is_sent(
    runtime: ColonyRuntime, receiver: Receiver
) -> None:
    """The reference is named, and what to do; nothing unsigned leaves the node."""
    told = hook(receiver, "/unsigned", "env:NO_SUCH_SECRET")
    [worker] = await runtime.spawn("fetch", on_complete=told)
    assert "env:NO_SUCH_SECRET: this environment variable is not set" in await given_up(
        runtime, f"{worker}_completed"
    )
    assert receiver.at("/unsigned") == []
    await runtime.drop_delivery(f"{worker}_completed")


async def test_a_subscription_gets_what_it_asks_for(
    runtime: ColonyRuntime, receiver: Receiver
) -> None:
    """Types and where choose the events; their ids derive from subscription and event."""
    wanted = subscription("failures", receiver, "/failures", "subagent_report")
    await runtime.put_subscription(wanted.model_copy(update={"where": {"data.status": ["failed"]}}))
    [good, bad] = [*await runtime.spawn("fetch"), *await runtime.spawn("fail")]
    [request] = await came(receiver, "/failures")
    payload = request.verified()
    assert payload["type"] == "subagent_report"
    assert (payload["data"]["worker_id"], payload["data"]["data"]["status"]) == (bad, "failed")
    assert request.id == f"failures_{payload['data']['id']}"
    await runtime.wait_for_worker(good, timeout=10)
    await settled(runtime)
    assert len(receiver.at("/failures")) == 1
    await runtime.remove_subscription("failures")
    assert await runtime.list_subscriptions() == []


def subscription(name: str, receiver: Receiver, path: str, *types: str) -> Subscription:
    """Events of these types, to this receiver."""
    return Subscription(id=name, url=receiver.url(path), secret=(HOOK,), types=types)


async def test_addresses_inside_are_not_called(receiver: Receiver) -> None:
    """Without permission a node calls no internal address, however it is written, and says so."""
    hosts = ["127.0.0.1", "localhost", "0x7f.1", "[::ffff:127.0.0.1]", "0.0.0.0"]
    shut = {**NODE, "delivery_allow_private": ""}
    async with Fleet("tests.fleet.webhook_definitions:hooks", **shut) as fleet:
        for host in hosts:
            told = OnComplete(url=receiver.url("/inside", host), secret=(HOOK,))
            [worker] = await fleet.runtime.spawn("fetch", on_complete=told)
            error = await given_up(fleet.runtime, f"{worker}_completed")
            assert "not a public address" in error
            assert "COLONY_DELIVERY_ALLOW_PRIVATE" in error
    assert receiver.received == []
