"""The store and the model side by side: what may happen, in any order, and what is always so."""

from __future__ import annotations

import json
import sys
from collections import Counter
from datetime import timedelta

import hypothesis.strategies as st
from hypothesis.stateful import invariant, precondition, rule

from colony.models import ReportStatus
from tests.store.both_sides import HOUR, BothSides, hash_keys, picked, request_of
from tests.store.kit import LEASE, check_whole, die, dump, told

NODES = ("n1", "n2")

picks = st.integers(0, 63)
ends = st.sampled_from(["success", "partial", "failed"])
caps = st.sampled_from([100, 1, 2])


class Colony(BothSides):
    """One colony, from its first worker to the last key."""

    # -- producers and parents --------------------------------------------------------------

    @rule(deadline=st.booleans(), later=st.booleans())
    def spawn(self, deadline: bool, later: bool) -> None:
        request = request_of(deadline=deadline, later=later)
        self.accept([self.name("w")], request)

    @rule(
        size=st.integers(1, 4),
        need=st.integers(1, 5),
        deadline=st.booleans(),
        on_complete=st.booleans(),
    )
    def spawn_batch(self, size: int, need: int, deadline: bool, on_complete: bool) -> None:
        request = request_of(
            batch=self.name("b"),
            need=need if need <= size else size + 1,
            deadline=deadline,
            on_complete=on_complete,
        )
        self.accept([self.name("w") for _ in range(size)], request)

    @precondition(lambda self: self.model.within("RUNNING"))
    @rule(pick=picks, size=st.integers(1, 3), early=st.booleans(), deadline=st.booleans())
    def spawn_children(self, pick: int, size: int, early: bool, deadline: bool) -> None:
        by = self.owned(pick)
        need = 1 if early else size + 1
        request = request_of(batch=self.name("b"), need=need, parent=by.id, token=by.token)
        self.accept([self.name("w") for _ in range(size)], {**request, "deadline": deadline})

    @precondition(lambda self: self.model.within("RUNNING"))
    @rule(
        pick=picks,
        sizes=st.lists(st.integers(1, 2), min_size=1, max_size=3),
        may_queue=st.sampled_from([True, True, False]),
        deadline=st.booleans(),
    )
    def spawn_in_background(
        self, pick: int, sizes: list[int], may_queue: bool, deadline: bool
    ) -> None:
        """A parent with an even number has one place, the others have two."""
        by = self.owned(pick)
        request = request_of(parent=by.id, token=by.token, deadline=deadline, may_queue=may_queue)
        for size in sizes:
            unit = {"batch": self.name("b"), "need": size + 1, "places": 1 + int(by.id[1:]) % 2}
            self.accept([self.name("w") for _ in range(size)], {**request, **unit})

    @precondition(lambda self: self.requests)
    @rule(pick=picks)
    def spawn_again(self, pick: int) -> None:
        """The same request again: a lost answer, or a parent that repeats its tool call."""
        ids, request = picked(self.requests, pick)
        if ids[0] in self.model.workers or request["batch"] in self.model.batches:
            self.accept(ids, request)

    @precondition(lambda self: self.model.workers)
    @rule(pick=picks, at_once=st.booleans())
    def stop(self, pick: int, at_once: bool) -> None:
        worker = self.worker(pick)
        grace = timedelta(0) if at_once else HOUR
        status = ReportStatus.STOPPED
        verdict = self.do(self.store.stop(worker.id, status=status, reason="r", grace=grace))
        assert verdict == self.model.stop(worker.id, "stopped", at_once=at_once)

    # -- nodes ------------------------------------------------------------------------------

    @rule(node=st.sampled_from(NODES))
    def beat(self, node: str) -> None:
        """Joins, renews a lease in time, and renews one that ran out and was not yet taken away."""
        held = self.do(self.store.beat(node, lease=LEASE, about={"host": "h"}, join=True))
        self.model.join_node(node)
        assert held == {w.id: w.token for w in self.model.within("RUNNING") if w.node == node}

    @precondition(lambda self: self.model.leases)
    @rule(node=st.sampled_from(NODES))
    def lose(self, node: str) -> None:
        if node in self.model.leases:
            self.do(die(self.store, node))
            self.model.leases[node] = False

    @precondition(lambda self: self.model.within("PENDING"))
    @rule(pick=picks, node=st.sampled_from(NODES))
    def answer(self, pick: int, node: str) -> None:
        """A doorbell is answered."""
        if not self.model.leases.get(node) and pick % 4:
            self.beat(node)
        self.claim(picked(self.model.within("PENDING"), pick).id, node)

    @precondition(lambda self: self.accepted)
    @rule(pick=picks, node=st.sampled_from(NODES))
    def answer_again(self, pick: int, node: str) -> None:
        """A doorbell that came twice, too late, or for one that is forgotten."""
        self.claim(picked(sorted(self.accepted), pick), node)

    @precondition(lambda self: self.model.within("RUNNING"))
    @rule(
        pick=picks, filed=st.sampled_from(["", "", "success", "failed"]), provisional=st.booleans()
    )
    def checkpoint(self, pick: int, filed: str, provisional: bool) -> None:
        by = self.owned(pick)
        self.write("checkpoint", by.id, by.token, (filed, provisional))

    @precondition(lambda self: self.model.within("RUNNING"))
    @rule(pick=picks, status=ends)
    def settle(self, pick: int, status: str) -> None:
        by = self.owned(pick)
        self.write("settle", by.id, by.token, status)

    @precondition(lambda self: self.model.within("RUNNING"))
    @rule(pick=picks)
    def park(self, pick: int) -> None:
        by = self.owned(pick)
        self.write("park", by.id, by.token, "time")

    @precondition(lambda self: self.parents())
    @rule(pick=picks)
    def park_for_children(self, pick: int) -> None:
        by, batch = picked(self.parents(), pick)
        self.write("park", by.id, by.token, batch)

    @precondition(lambda self: self.parents())
    @rule(pick=picks, which=picks)
    def park_for_several(self, pick: int, which: int) -> None:
        """Some of its batches, also such as are joined or gone."""
        by, first = picked(self.parents(), pick)
        of_its = sorted({batch for worker, batch in self.parents() if worker is by})
        some = [batch for i, batch in enumerate(of_its) if which >> i % 6 & 1]
        self.write("park", by.id, by.token, " ".join(some or [first]))

    @precondition(lambda self: self.model.within("RUNNING"))
    @rule(pick=picks, counted=st.booleans())
    def give_back(self, pick: int, counted: bool) -> None:
        by = self.owned(pick)
        self.write("give_back", by.id, by.token, counted)

    @precondition(lambda self: self.claims)
    @rule(pick=picks, what=st.sampled_from(["checkpoint", "settle", "park", "give_back", "spawn"]))
    def write_late(self, pick: int, what: str) -> None:
        """By any claim there ever was: the one that holds, one that is lost, one that has ended."""
        worker_id, token = picked(self.claims, pick)
        if what == "spawn":
            request = request_of(batch=self.name("b"), need=2, parent=worker_id, token=token)
            self.accept([self.name("w")], request)
            return
        with_ = {"checkpoint": ("", False), "settle": "success", "park": "time", "give_back": True}
        self.write(what, worker_id, token, with_[what])

    # -- janitors ---------------------------------------------------------------------------

    @rule(node=st.sampled_from(NODES), cap=caps)
    def rescue(self, node: str, cap: int) -> None:
        held = hash_keys(self.do(self.store.link.call("HGETALL", self.store.keys("held", node))))
        if node not in self.model.leases:
            return
        taken, rings = self.do(self.store.rescue(node, cap=cap, ring_again_after=HOUR))
        assert (taken, [r.worker_id for r in rings]) == self.model.rescue(node, held, cap)

    @rule(node=st.sampled_from(NODES), cap=caps, upheld=st.booleans())
    def come_back(self, node: str, cap: int, upheld: bool) -> None:
        """A node that was rescued was only cut off, or had stood still."""
        if upheld:
            self.do(self.store.uphold(node))
            self.model.counted.pop(node, None)
        else:
            taken_back = self.do(self.store.exonerate(node, "was cut off", cap=cap))
            assert taken_back == self.model.exonerate(node)

    @precondition(lambda self: self.model.due)
    @rule(pick=picks, cap=caps)
    def come_due(self, pick: int, cap: int) -> None:
        self.expire(picked(sorted(self.model.due), pick), cap)

    @precondition(lambda self: self.accepted)
    @rule(pick=picks)
    def wake_any(self, pick: int) -> None:
        self.wake(picked(sorted(self.accepted), pick))

    @precondition(lambda self: self.model.within("PENDING"))
    @rule(pick=picks)
    def lose_a_doorbell(self, pick: int) -> None:
        """It is rung for again, and else only for those who were rung in vain before a node joined."""
        worker = picked(self.model.within("PENDING"), pick)
        self.do(self.store.link.call("ZADD", self.store.keys("doorbells"), "XX", 1, worker.id))
        rings = self.do(self.store.ring_again(after=HOUR, cap=100))
        assert {r.worker_id for r in rings} == self.model.ring_again(worker)

    @precondition(lambda self: self.batches)
    @rule(pick=picks)
    def join_any(self, pick: int) -> None:
        self.join(picked(sorted(self.batches), pick))

    @precondition(lambda self: self.model.out())
    @rule(pick=picks)
    def end_in_background(self, pick: int) -> None:
        """A unit of background work comes to its end, as far as its members may run."""
        unit = picked(self.model.out(), pick)
        self.beat("n1")
        for worker_id in unit.members:
            self.claim(worker_id, "n1")
            worker = self.model.workers[worker_id]
            if worker.state == "RUNNING":
                self.write("settle", worker_id, worker.token, "success")
        self.join(unit.id)

    @rule(sent=st.booleans())
    def notices(self, sent: bool) -> None:
        found = self.do(self.store.notices(again_after=timedelta(0), cap=100))
        assert set(found) == self.model.outbox
        for notice in found if sent else ():
            self.do(self.store.notice_sent(notice))
            self.model.outbox.remove(notice)

    @rule(most=st.integers(0, 3))
    def retain(self, most: int) -> None:
        oldest = self.do(self.store.link.call("ZRANGE", self.store.keys("ended"), 0, -1))
        forgotten = self.do(self.store.retain(most=most, ttl=None, cap=1000))
        assert forgotten == self.model.retain(oldest, most)

    # -- what is always so, and what is so at the end -----------------------------------------

    @invariant()
    def agrees(self) -> None:
        """Every index and counter is the model's; every key is on the map."""
        whole = dump(self.url, self.store)
        found = {
            name.partition(":")[2]: record["state"]
            for name, record in whole.items()
            if name.startswith("worker:")
        }
        assert found == {w.id: w.state for w in self.model.workers.values()}
        for w in self.model.workers.values():
            assert int(whole[f"worker:{w.id}"].get("resurrections", 0)) == w.deaths
            stored = json.loads(whole[f"worker:{w.id}"].get("report", "{}"))
            assert sorted(stored.get("left_running", ())) == sorted(w.left)
        for name in ("due", "joins", "outbox"):
            assert set(whole.get(name, ())) == getattr(self.model, name)
        totals = {k[6:]: int(v) for k, v in whole["meta"].items() if k.startswith("total:")}
        assert totals == {k: n for k, n in self.model.totals.items() if n}
        kept = {name[6:] for name in whole if name.startswith("batch:")}
        assert kept == set(self.model.batches)
        check_whole(whole)

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.drive_to_the_end()
                self.check_the_end()
        finally:
            self.do(self.store.link.call("UNLINK", *self.names()))
            self.do(self.store.link.close())

    def drive_to_the_end(self) -> None:
        """What living nodes and their janitors do, until nothing is left to do."""
        for node in list(self.model.leases):
            self.lose(node)
            self.rescue(node, 100)
        self.beat("n1")
        for _ in range(100):
            for worker in self.model.within("PENDING"):
                self.claim(worker.id, "n1")
            for worker in self.model.within("RUNNING"):
                self.write("settle", worker.id, worker.token, "success")
            for item in sorted(i for i in self.model.due if not i.startswith("deadline:")):
                self.expire(item, 100)
            for batch_id in sorted(self.model.joins):
                self.join(batch_id)
            if not (self.model.within("PENDING", "RUNNING") or self.model.due or self.model.joins):
                return
        raise AssertionError("there is always something left to do")

    def check_the_end(self) -> None:
        self.agrees()
        assert not self.model.within("PENDING", "RUNNING", "PARKED")
        assert not [b for b in self.model.batches.values() if b.open]
        events = self.do(told(self.store))
        reports = Counter(e["worker_id"] for e in events if e["type"] == "subagent_report")
        joins = Counter(e["data"]["batch_id"] for e in events if e["type"] == "batch_completed")
        assert reports == Counter(self.accepted), "each worker has exactly one report"
        assert joins == Counter(self.batches), "each batch is joined exactly once"
        self.notices(sent=True)
        for lost in self.do(self.store.link.call("ZRANGE", self.store.keys("quarantine"), 0, -1)):
            self.do(self.store.drop(lost))
        self.retain(0)
        assert not self.model.workers
        lasting = {name for name in self.names() if self.do(self.store.link.call("PTTL", name)) < 0}
        left = {name.removeprefix(self.store.keys.prefix) for name in lasting}
        assert left <= {"meta", "events", "nodes", "node:n1"}, "keys that nobody needs are left"
