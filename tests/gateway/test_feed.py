"""The inbox of a reader: bounded, and never silent about what did not fit."""

from __future__ import annotations

from datetime import timedelta

from colony.gateway.feed import Feed, Inbox
from colony.redis_server import EmbeddedRedis
from colony.store import Link, Store
from colony.testing import wait_until
from tests.store.kit import open_store

SOON = timedelta(seconds=0.01)


async def _all(inbox: Inbox) -> list[int | None]:
    taken = []
    while await inbox.came(SOON):
        message = inbox.take()
        taken.append(None if message is None else int(message["n"]))
    return taken


async def test_the_first_word_is_to_read_the_log() -> None:
    """Whoever begins to listen reads what has already happened, then hears."""
    inbox = Inbox(3, None)
    inbox.put({"n": 1})
    assert await _all(inbox) == [None, 1]
    assert not await inbox.came(SOON)


async def test_what_does_not_fit_becomes_the_word_to_read_the_log() -> None:
    """However much comes, no more than the size is held, and the last of it is not forgotten."""
    inbox = Inbox(3, None)
    await _all(inbox)
    for n in range(3):
        inbox.put({"n": n})
    assert await _all(inbox) == [0, 1, 2]
    for n in range(4):
        inbox.put({"n": n})
    assert await _all(inbox) == [None]
    for n in range(5):
        inbox.put({"n": n})
    assert await _all(inbox) == [None, 4]
    inbox.put({"n": 1})
    inbox.put(None)
    assert await _all(inbox) == [None]


async def test_the_first_reason_of_an_end_is_the_one_that_is_told() -> None:
    """The end is noticed at once, with messages waiting or without."""
    inbox = Inbox(3, "t1")
    inbox.end("revoked")
    inbox.end("the gateway ends")
    assert await inbox.came(SOON)
    assert inbox.ended == "revoked"


async def test_a_feed_that_cannot_listen_ends_its_streams() -> None:
    """A Redis that forbids the channel: no stream is silent for ever; the next reader tries anew."""
    with EmbeddedRedis() as server:
        admin = await open_store(server.url, "shop")
        user = ("ACL", "SETUSER", "deaf", "on", ">pw", "~*", "+@all")
        await admin.link.call(*user, "resetchannels")
        link = Link(server.url.replace("://", "://deaf:pw@"), patience=timedelta(seconds=1))
        feed = Feed(Store(link, "shop"), 10)
        try:
            with feed.inbox(None) as inbox:
                await wait_until(lambda: inbox.ended)
            await admin.link.call(*user, "allchannels")
            with feed.inbox(None) as inbox:
                await _all(inbox)
                await wait_until(lambda: _heard(admin, inbox), what="an event is heard")
                assert inbox.ended is None
        finally:
            await feed.close()
            await link.close()
            await admin.link.close()


async def _heard(admin: Store, inbox: Inbox) -> bool:
    await admin.say("progress", {}, worker_id="w", stream_id="s", correlation_id=None)
    return await inbox.came(SOON) and inbox.take() is not None
