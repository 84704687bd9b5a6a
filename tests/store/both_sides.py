"""One step on both sides: done to the store and to the model, and the answers compared."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from hypothesis.stateful import RuleBasedStateMachine

from colony.conversation import Filed
from colony.errors import StaleToken, TreeLimit
from colony.models import ReportStatus
from colony.store import Claim
from colony.store.records import new_record
from colony.store.workers import Background, NewBatch, Parent, Policy
from tests.store.kit import VERSION, new_colony_id, open_store, step
from tests.store.model import Batch, Worker
from tests.store.model_janitor import Model

T = TypeVar("T")
HOUR = timedelta(hours=1)
MAX_DEPTH, MAX_DESCENDANTS = 3, 6


class BothSides(RuleBasedStateMachine):
    """A store and a model of one colony."""

    def __init__(self, url: str, runner: asyncio.Runner) -> None:
        super().__init__()
        self.url, self.runner = url, runner
        limits = {"max_depth": MAX_DEPTH, "max_descendants": MAX_DESCENDANTS}
        self.store = self.do(open_store(url, new_colony_id(), **limits))
        self.model = Model(MAX_DEPTH, MAX_DESCENDANTS)
        self.claims: list[tuple[str, str]] = []
        self.requests: list[tuple[list[str], dict[str, Any]]] = []
        self.accepted: set[str] = set()
        self.batches: set[str] = set()
        self.made = 0

    def do(self, asked: Awaitable[T]) -> T:
        async def run() -> T:
            return await asked

        return self.runner.run(run())

    def name(self, letter: str) -> str:
        self.made += 1
        return f"{letter}{self.made:04d}"

    def worker(self, pick: int) -> Worker:
        return picked(list(self.model.workers.values()), pick)

    def owned(self, pick: int) -> Worker:
        return picked(self.model.within("RUNNING"), pick)

    def accept(self, ids: list[str], request: dict[str, Any]) -> None:
        verdict = self.do(self._accept(ids, request))
        batch, need = request["batch"], request["need"]
        made = None
        if batch:
            made = Batch(batch, ids, need, request["parent"], request["on_complete"])
            made.places, made.may_queue = request["places"], request["may_queue"]
        expected = self.model.accept(
            ids,
            batch=made,
            parent=request["parent"],
            token=request["token"],
            deadline=request["deadline"],
            later=request["later"],
        )
        assert verdict == expected
        if expected in ("now", "later"):
            self.accepted.update(ids)
            self.batches.update({batch} - {""})
            self.requests.append((ids, request))

    async def _accept(self, ids: list[str], request: dict[str, Any]) -> str:
        size, need, batch = len(ids), request["need"], None
        if request["batch"]:
            policy = Policy.ALL if need > size else Policy.FIRST_N
            on_complete = '{"task":"t"}' if request["on_complete"] else ""
            places = request["places"]
            background = Background(places, request["may_queue"]) if places else None
            batch = NewBatch(request["batch"], policy, need, on_complete, background)
        try:
            verdict, _ = await self.store.accept(
                [(w, _record(w)) for w in ids],
                ring_again_after=HOUR,
                deadline=HOUR if request["deadline"] else None,
                not_before=HOUR if request["later"] else None,
                batch=batch,
                parent=Parent(request["parent"], request["token"]) if request["parent"] else None,
            )
        except StaleToken:
            return "stale"
        except TreeLimit:
            return "limit"
        return verdict.value

    def claim(self, worker_id: str, node: str) -> None:
        token = self.name("t")
        got = self.do(self.store.claim(worker_id, node=node, token=token, version=VERSION))
        expected = self.model.claim(worker_id, node, token)
        assert ("claimed" if isinstance(got, Claim) else got) == expected
        if isinstance(got, Claim):
            assert len(got.parts) == self.model.workers[worker_id].parts
            self.claims.append((worker_id, token))

    def write(self, what: str, worker_id: str, token: str, with_: Any) -> None:
        """One of the four writes of a claim, by its owner or by one that was."""
        known = self.model.workers.get(worker_id)
        after = known.parts if known else 0
        try:
            got = self.do(self._write(what, worker_id, token, with_, after))
        except StaleToken:
            got = "stale"
        assert got == self._expected(what, worker_id, token, with_)

    async def _write(self, what: str, worker_id: str, token: str, with_: Any, after: int) -> str:
        store = self.store
        if what == "checkpoint":
            status, provisional = with_
            end = (
                Filed(ReportStatus(status), "filed", {}, provisional=provisional)
                if status
                else None
            )
            made = step("x", filed=end)
            return await store.checkpoint(worker_id, token, made, after=after) or "ok"
        if what == "settle":
            filed = Filed(ReportStatus(with_), "end", {})
            return (await store.settle(worker_id, token, filed)).joinable
        if what == "park":
            for_ = HOUR if with_ == "time" else tuple(with_.split())
            parked = await store.park(worker_id, token, for_, ring_again_after=HOUR)
            if isinstance(parked, ReportStatus):
                return parked
            assert [r.worker_id for r in parked.rings] == [worker_id] * parked.again
            return "ready" if parked.again else "parked"
        back = store.give_back(worker_id, token, "x", counted=with_, ring_again_after=HOUR)
        return "pending" if await back else "ended"

    def _expected(self, what: str, worker_id: str, token: str, with_: Any) -> str:
        match what:
            case "checkpoint":
                filed, provisional = with_
                return self.model.checkpoint(worker_id, token, filed, provisional=provisional)
            case "settle":
                return self.model.settle(worker_id, token, with_)
            case "park":
                return self.model.park(worker_id, token, with_)
            case _:
                back = self.model.give_back(worker_id, token, counted=with_)
                return "ended" if back == "stale" else back

    def parents(self) -> list[tuple[Worker, str]]:
        spawned = [(self.model.workers.get(r["parent"]), r["batch"]) for _, r in self.requests]
        return [(w, b) for w, b in spawned if w and w.state == "RUNNING"]

    def expire(self, item: str, cap: int) -> None:
        store, (kind, _, of) = self.store, item.partition(":")
        self.do(store.link.call("ZADD", store.keys("due"), "XX", 1, item))
        if kind == "wake":
            self.wake(of)
            return
        children = self.do(store.link.call("SMEMBERS", store.keys("children", of)))
        rings = self.do(store.expire(item, grace=HOUR, cap=cap))
        assert [r.worker_id for r in rings] == self.model.expire(item, sorted(children), cap)

    def wake(self, worker_id: str) -> None:
        ring = self.do(self.store.wake(worker_id, ring_again_after=HOUR))
        assert (ring is not None) == self.model.wake(worker_id)

    def join(self, batch_id: str) -> None:
        reply = self.do(self.store.run("join", batch_id, 1000))
        verdict, rings = self.model.join(batch_id)
        assert reply[0] == verdict
        assert (reply[1][::4] if verdict == "joined" else []) == rings

    def names(self) -> list[str]:
        return list(self.do(self.store.link.call("KEYS", self.store.keys.prefix + "*")))


def picked(among: Sequence[T], pick: int) -> T:
    return among[pick % len(among)]


def hash_keys(flat: Any) -> list[str]:
    return list(flat) if isinstance(flat, dict) else list(flat[::2])


def request_of(**options: Any) -> dict[str, Any]:
    plain = {"batch": "", "need": 0, "parent": "", "token": "", "places": 0, "may_queue": False}
    return {**plain, "deadline": False, "later": False, "on_complete": False, **options}


def _record(worker_id: str) -> dict[str, str]:
    return new_record(
        worker_id, "t", data={}, agent=None, correlation_id=None, stream_id=None, priority=0
    )
