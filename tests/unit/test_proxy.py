"""The proxy of the tests does what its table says: the partitions of other tests stand on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from tests.proxy import Proxy


@pytest.fixture
def proxy(colony_redis: str) -> Iterator[Proxy]:
    with Proxy(colony_redis) as proxy:
        yield proxy


def client(url: str) -> Redis:
    return Redis.from_url(
        url, socket_timeout=0.3, retry=Retry(NoBackoff(), 0), decode_responses=True
    )


def test_bytes_go_through_and_the_url_keeps_its_database(proxy: Proxy) -> None:
    with client(proxy.url) as redis:
        assert redis.ping()
    assert proxy.url.rpartition("/")[2] == "0"


def test_a_delay_is_added_each_way(proxy: Proxy, colony_redis: str) -> None:
    with client(proxy.url) as redis:
        redis.ping()
        before = redis.time()
        proxy.delay(60)
        redis.ping()
        proxy.open()
        after = redis.time()
    assert (after[0] - before[0]) + (after[1] - before[1]) / 1e6 >= 0.12


def test_a_black_hole_says_nothing_and_what_was_sent_arrives_when_it_heals(
    proxy: Proxy, colony_redis: str
) -> None:
    with client(proxy.url) as redis, client(colony_redis) as direct:
        redis.ping()
        proxy.black_hole()
        with pytest.raises(RedisTimeoutError):
            redis.set("late", "write")
        assert direct.get("late") is None
        proxy.open()
        deadline = direct.time()[0] + 5
        while direct.get("late") is None and direct.time()[0] < deadline:
            pass
        assert direct.get("late") == "write"


def test_a_mute_server_does_what_it_is_told_and_nobody_hears(
    proxy: Proxy, colony_redis: str
) -> None:
    with client(proxy.url) as redis, client(colony_redis) as direct:
        redis.ping()
        proxy.mute()
        with pytest.raises(RedisTimeoutError):
            redis.set("done", "yes")
        assert direct.get("done") == "yes"


@pytest.mark.parametrize("mode", ["reset", "refuse"])
def test_reset_and_refuse_end_what_is_connected_and_open_heals(proxy: Proxy, mode: str) -> None:
    with client(proxy.url) as redis:
        redis.ping()
        port = proxy.port
        getattr(proxy, mode)()
        for _ in range(2):
            with pytest.raises(RedisConnectionError):
                redis.ping()
        proxy.open()
        assert redis.ping()
        assert proxy.port == port


def test_cut_ends_what_is_connected_and_nothing_else(proxy: Proxy) -> None:
    with client(proxy.url) as redis, client(proxy.url) as second:
        redis.ping()
        proxy.cut()
        assert proxy.connections == 0
        assert second.ping()
        assert redis.ping()
        assert proxy.accepted == 3  # redis-py saw its connection gone and made another


def test_a_forgotten_connection_hangs_and_new_ones_do_not(proxy: Proxy) -> None:
    with client(proxy.url) as redis:
        redis.ping()
        proxy.forget()
        with pytest.raises(RedisTimeoutError):
            redis.ping()
        assert redis.ping()
