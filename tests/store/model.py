"""A colony in plain Python: what the scripts do, said a second time and without Redis.

Each method is one script: it takes what the script takes and returns what the script answers.
Time is left out: an item that is `due` is due when somebody does it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

STATE_OF = {
    "success": "COMPLETED",
    "partial": "COMPLETED",
    "failed": "FAILED",
    "timeout": "FAILED",
    "stopped": "STOPPED",
}
TERMINAL = set(STATE_OF.values())
MAX_RESURRECTIONS = 3


@dataclass
class Worker:
    """What is known of a worker."""

    id: str
    root: str
    batch: str = ""
    parent: str = ""
    depth: int = 0
    state: str = "PENDING"
    was: str = ""
    deadline: bool = False
    token: str = ""
    node: str = ""
    told: str = ""
    filed: str = ""
    filed_provisionally: bool = False
    waits: str = ""
    parts: int = 0
    deaths: int = 0
    spared: int = 0
    descendants: int = 0
    children: list[str] = field(default_factory=list)
    parked_by: str = ""
    rings: int = 0
    rings_now: bool = False
    settled_by: str = ""
    given_back_by: str = ""
    left: list[str] = field(default_factory=list)

    @property
    def unneeded(self) -> bool:
        """Its batch was joined without it."""
        return self.filed == "stopped"

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL

    def owned_by(self, token: str) -> bool:
        return self.state == "RUNNING" and self.token == token


@dataclass
class Batch:
    """What is known of a batch; `need` good reports join it early. `places`: so many of its parent's
    may run in the background; one more queues if it may."""

    id: str
    members: list[str]
    need: int
    parent: str = ""
    on_complete: bool = False
    places: int = 0
    may_queue: bool = False
    queues: bool = False
    open: bool = True
    arrived: set[str] = field(default_factory=set)
    good: int = 0
    forgotten: int = 0

    @property
    def enough(self) -> bool:
        return len(self.arrived) == len(self.members) or self.good >= self.need


class Transitions:
    """All workers and batches that are kept, every index that goes with them, and what producers,
    parents and nodes do to them."""

    def __init__(self, max_depth: int, max_descendants: int) -> None:
        self.max_depth, self.max_descendants = max_depth, max_descendants
        self.workers: dict[str, Worker] = {}
        self.batches: dict[str, Batch] = {}
        self.leases: dict[str, bool] = {}
        self.counted: dict[str, dict[str, Worker]] = {}
        self.due: set[str] = set()
        self.joins: set[str] = set()
        self.outbox: set[str] = set()
        self.totals: Counter[str] = Counter()

    def within(self, *states: str) -> list[Worker]:
        return [w for w in self.workers.values() if w.state in states]

    # -- producers and parents --------------------------------------------------------------

    def accept(
        self, ids: Sequence[str], *, batch: Batch | None, parent: str, token: str, **at: bool
    ) -> str:
        """`at`: deadline, later."""
        known = self.workers.get(ids[0])
        if known:
            return "later" if known.state == "PARKED" else "now"
        if batch and batch.id in self.batches:
            return "now"
        lineage = self._lineage(len(ids), parent, token, batch)
        if isinstance(lineage, str):
            return lineage
        by = lineage[0] if lineage else None
        deadline = at["deadline"] or (by is not None and by.deadline)
        queues = batch is not None and batch.queues
        for worker_id in ids:
            made = Worker(worker_id, root=by.root if by else worker_id, deadline=deadline)
            made.batch = batch.id if batch else ""
            if by:
                made.parent, made.depth = parent, by.depth + 1
                by.children.append(worker_id)
            if deadline:
                self.due.add(f"deadline:{worker_id}")
            made.waits = "time" if at["later"] else "siblings" if queues else ""
            made.state = "PARKED" if made.waits else "PENDING"
            if at["later"]:
                self.due.add(f"wake:{worker_id}")
            self.workers[worker_id] = made
        if batch:
            self.batches[batch.id] = batch
            if deadline:
                self.due.add(f"batch:{batch.id}")
        self.totals["accepted"] += len(ids)
        return "later" if at["later"] or queues else "now"

    def out(self) -> list[Batch]:
        """All background work that has not been joined."""
        return [b for b in self.batches.values() if b.places and b.open]

    def units(self, parent: str) -> list[Batch]:
        """What a worker has in the background, in the order of dispatch."""
        return [unit for unit in self.out() if unit.parent == parent]

    def _running(self, parent: str) -> int:
        return sum(not unit.queues for unit in self.units(parent))

    def _lineage(self, n: int, parent: str, token: str, batch: Batch | None) -> str | list[Worker]:
        """The parent in a list (none: no parent), or why it may not spawn."""
        if not parent:
            return []
        by = self.workers.get(parent)
        if by is None or not by.owned_by(token) or self._is_being_stopped(by):
            return "stale"
        if by.depth + 1 >= self.max_depth:
            return "limit"
        root = self.workers.get(by.root)
        if (root.descendants if root else 0) + n > self.max_descendants:
            return "limit"
        if batch and batch.places:
            batch.queues = self._running(parent) >= batch.places
            if batch.queues and not batch.may_queue:
                return "limit"
        if root:
            root.descendants += n
        return [by]

    def _is_being_stopped(self, worker: Worker | None) -> bool:
        if worker is None:
            return False
        is_told = bool(worker.told) or f"tree:{worker.id}" in self.due
        return is_told or self._is_being_stopped(self.workers.get(worker.parent))

    def stop(self, worker_id: str, status: str, *, at_once: bool) -> str:
        verdict = self._stop(worker_id, status, at_once=at_once)[0]
        if verdict == "ended" and status == "stopped":
            self._go_down(self.workers[worker_id])
        return verdict

    def _stop(self, worker_id: str, status: str, *, at_once: bool) -> tuple[str, bool]:
        worker = self.workers.get(worker_id)
        if worker is None:
            return "unknown", False
        if worker.ended:
            return "ended", False
        if worker.state == "RUNNING" and not at_once:
            return "told", self._tell(worker, status)
        self._finish(worker, status)
        self._owe_part(worker)
        return "settled", True

    def _tell(self, worker: Worker, status: str) -> bool:
        if worker.told:
            return False
        worker.told = status
        self.due.add(f"kill:{worker.id}")
        self._go_down(worker)
        return True

    def _go_down(self, worker: Worker) -> None:
        if worker.children:
            self.due.add(f"tree:{worker.id}")

    def _owe_part(self, worker: Worker) -> None:
        if worker.batch or worker.was != "PENDING":
            self.due.add(f"part:{worker.id}")

    # -- nodes ------------------------------------------------------------------------------

    def claim(self, worker_id: str, node: str, token: str) -> str:
        worker = self.workers.get(worker_id)
        if worker is None:
            return "unknown"
        if not self.leases.get(node):
            return "lease"
        if worker.owned_by(token):
            return "claimed"
        if worker.state != "PENDING":
            return worker.state
        worker.state, worker.node, worker.token = "RUNNING", node, token
        worker.rings_now = False
        return "claimed"

    def join_node(self, node: str) -> None:
        """A node's first beat: who was rung in vain is rung now."""
        if node not in self.leases:
            for worker in self.within("PENDING"):
                worker.rings_now = worker.rings > 0
        self.leases[node] = True

    def ring_again(self, lost: Worker) -> set[str]:
        """One doorbell was lost: for whom it is rung again."""
        lost.rings_now = True
        rung = [worker for worker in self.within("PENDING") if worker.rings_now]
        for worker in rung:
            worker.rings, worker.rings_now = worker.rings + 1, False
        self.totals["rung_again"] += len(rung)
        return {worker.id for worker in rung}

    def checkpoint(self, worker_id: str, token: str, filed: str, *, provisional: bool) -> str:
        worker = self._owned(worker_id, token)
        if worker is None:
            return self._stale()
        worker.parts += 1
        if filed and (not worker.filed or worker.filed_provisionally):
            worker.filed, worker.filed_provisionally = filed, provisional
        return worker.told or "ok"

    def settle(self, worker_id: str, token: str, status: str) -> str:
        """The batch that is to be joined now, '' or 'stale'."""
        worker = self._owned(worker_id, token)
        if worker is None:
            known = self.workers.get(worker_id)
            if known and known.ended and known.settled_by == token:
                return ""
            return self._stale()
        worker.settled_by = token
        return self._finish(worker, "stopped" if worker.unneeded else status)

    def park(self, worker_id: str, token: str, waits: str) -> str:
        known = self.workers.get(worker_id)
        if known and known.parked_by == token and known.state in ("PARKED", "PENDING"):
            return "parked" if known.state == "PARKED" else "ready"
        worker = self._owned(worker_id, token)
        if worker is None:
            return self._stale()
        if worker.told:
            return worker.told
        worker.parked_by = token
        if waits != "time" and not all(self._is_open(batch_id) for batch_id in waits.split()):
            self._pend(worker)
            return "ready"
        self._release(worker, "PARKED")
        worker.waits = waits
        if waits == "time":
            self.due.add(f"wake:{worker_id}")
        return "parked"

    def _is_open(self, batch_id: str) -> bool:
        return batch_id in self.batches and self.batches[batch_id].open

    def give_back(self, worker_id: str, token: str, *, counted: bool) -> str:
        worker = self._owned(worker_id, token)
        if worker is None:
            known = self.workers.get(worker_id)
            if known and known.given_back_by == token and known.state == "PENDING":
                return "pending"
            again = known is not None and known.given_back_by == token and known.ended
            return "ended" if again else "stale"
        worker.given_back_by = token
        if self._give(worker, counted=counted):
            return "pending"
        if counted:
            self._owe_part(worker)
        return "ended"

    def _give(self, worker: Worker, *, counted: bool) -> bool:
        if worker.told:
            self._finish(worker, worker.told)
            return False
        if counted:
            worker.deaths += 1
            if worker.deaths > MAX_RESURRECTIONS:
                self.totals["lost"] += not worker.filed
                self._finish(worker, "failed")
                return False
            self.totals["rescued"] += 1
        self._pend(worker)
        return True

    def _owned(self, worker_id: str, token: str) -> Worker | None:
        worker = self.workers.get(worker_id)
        return worker if worker and worker.owned_by(token) else None

    def _stale(self) -> str:
        self.totals["stale_refused"] += 1
        return "stale"

    def _release(self, worker: Worker, state: str) -> None:
        worker.state, worker.token, worker.node, worker.waits = state, "", "", ""
        worker.rings, worker.rings_now = 0, False

    def _pend(self, worker: Worker) -> None:
        self._release(worker, "PENDING")

    def _finish(self, worker: Worker, status: str) -> str:
        if status in ("stopped", "timeout"):
            self._go_down(worker)
        else:
            worker.left = [unit.id for unit in self.units(worker.id)]
        status = worker.filed or status
        worker.was = worker.state
        self._release(worker, STATE_OF[status])
        worker.told = ""
        self.due -= {f"{kind}:{worker.id}" for kind in ("wake", "kill", "deadline")}
        self.totals[status] += 1
        return self._arrive(worker) if worker.batch else ""

    def _arrive(self, worker: Worker) -> str:
        batch = self.batches[worker.batch]
        batch.arrived.add(worker.id)
        batch.good += worker.state == "COMPLETED"
        if not (batch.open and batch.enough):
            return ""
        self.joins.add(batch.id)
        return batch.id
