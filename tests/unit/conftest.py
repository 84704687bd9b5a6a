"""The Redis side of the unit tests shares the store's fixtures."""

from __future__ import annotations

from tests.store.fixtures import open_colony, own_redis, redis_url, store

__all__ = ["open_colony", "own_redis", "redis_url", "store"]
