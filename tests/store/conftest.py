"""The store's tests watch every key: a test that leaves a wrong one fails at its end."""

from __future__ import annotations

from tests.store.fixtures import open_colony, own_redis, redis_url, store

__all__ = ["open_colony", "own_redis", "redis_url", "store"]
