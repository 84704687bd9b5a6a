"""Webhooks across deaths: a node that dies in the middle of a send, all nodes down, a log that was capped."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from colony.testing import Fleet, wait_until
from tests.fleet.receiver import Answer, Receiver, receiving
from tests.fleet.test_webhooks_out import NODE, came, hook, settled, subscription

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio]

DEFINITION = "tests.fleet.webhook_definitions:hooks"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """One for each test."""
    with receiving() as made:
        yield made


async def test_a_node_that_dies_in_the_middle_of_a_send(receiver: Receiver) -> None:
    """kill -9 while the receiver still thinks: another node sends it again, with the same id and body."""
    receiver.answers["/hook"] = [Answer(held=True), Answer()]
    async with Fleet(DEFINITION, **NODE) as fleet:
        [worker] = await fleet.runtime.spawn("fetch", on_complete=hook(receiver, "/hook"))
        await came(receiver, "/hook")
        [node] = fleet.nodes
        node.kill()
        assert [d.id for d in await fleet.runtime.list_deliveries()] == [f"{worker}_completed"]
        await fleet.add_nodes(1)
        first, second = await came(receiver, "/hook", 2, timeout=15)
        assert first.id == second.id == f"{worker}_completed"
        assert first.verified() == second.verified()
        await settled(fleet.runtime)


@pytest.mark.parametrize("step", ["claim_deliveries", "delivered", "follow"])
async def test_a_node_that_dies_at_a_step(receiver: Receiver, step: str) -> None:
    """kill -9 right after a script of the courier: everything comes, at least once, each with one id."""
    async with Fleet(DEFINITION, nodes=0, **NODE) as fleet:
        [first] = await fleet.add_nodes()
        await fleet.runtime.put_subscription(
            subscription("reports", receiver, "/events", "subagent_report")
        )
        first.kill()
        faulty = fleet.start_node(
            fault=f"after-{step}@{3 if step == 'claim_deliveries' else 1}:kill"
        )
        ids = await fleet.runtime.spawn("fetch", count=5, on_complete=hook(receiver, "/hook"))
        assert faulty.wait(30) == -9, "the point was not reached"
        await fleet.add_nodes(1)
        await wait_until(
            lambda: {r.id for r in receiver.at("/hook")} == {f"{w}_completed" for w in ids}, 20
        )

        def reported() -> set[str]:
            return {r.verified()["data"]["worker_id"] for r in receiver.at("/events")}

        await wait_until(lambda: reported() == set(ids), 20, what="each report is told")
        await settled(fleet.runtime)
        assert len({r.id for r in receiver.at("/events")}) == len(ids)


async def test_a_subscription_goes_on_after_all_nodes_were_down(receiver: Receiver) -> None:
    """What happens while no node is there comes when one is there again: each event once, none left out."""
    async with Fleet(DEFINITION, nodes=1, **NODE) as fleet:
        await fleet.runtime.put_subscription(subscription("all", receiver, "/all"))
        [subscribed] = await fleet.runtime.list_subscriptions()
        [early] = await fleet.runtime.spawn("fetch")
        await fleet.runtime.wait_for_worker(early, timeout=10)
        fleet.nodes[0].kill()
        away = [await fleet.runtime.spawn("fetch") for _ in range(20)]
        await fleet.add_nodes(2)
        for [worker] in away:
            await fleet.runtime.wait_for_worker(worker, timeout=20)

        kept = fleet.runtime.events(after=subscribed.cursor, follow=False)
        expected = {f"all_{event.id}" async for event in kept}
        await wait_until(lambda: {r.id for r in receiver.at("/all")} >= expected, 20)
        await settled(fleet.runtime)
        assert len(receiver.at("/all")) <= len(expected) + 4, "those that were being sent, again"


async def test_what_the_log_no_longer_has_is_announced(receiver: Receiver) -> None:
    """A gap is a delivery of its own that says how many events are missing; then it goes on."""
    async with Fleet(DEFINITION, max_history="100", **NODE) as fleet:
        await fleet.runtime.put_subscription(
            subscription("accepted", receiver, "/log", "execution_accepted")
        )
        fleet.nodes[0].kill()
        for _ in range(400):
            await fleet.runtime.spawn("fetch", not_before=timedelta(hours=1))
        await fleet.add_nodes(1)

        def told() -> int:
            gaps = [r for r in receiver.at("/log") if "_gap_" in r.id]
            missed = sum(int(r.verified()["data"]["data"]["missed"]) for r in gaps)
            return missed + len(receiver.at("/log")) - len(gaps)

        await wait_until(lambda: told() >= 400, 30, what="each event came or is in a gap")
        await settled(fleet.runtime)
        [gap] = [r.verified() for r in receiver.at("/log") if "_gap_" in r.id]
        assert gap["type"] == "gap"
        assert gap["data"]["data"]["missed"] >= 200
        assert told() == 400
        await fleet.runtime.stop_all_workers()
