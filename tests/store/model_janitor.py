"""What janitors do in the model: rescue, wake, due items, joins, retention."""

from __future__ import annotations

from collections.abc import Sequence

from tests.store.model import Batch, Transitions

SPARED_MOST = 10


class Model(Transitions):
    """The whole of it."""

    def rescue(self, node: str, held: Sequence[str], cap: int) -> tuple[int, list[str]]:
        """`held` in the order in which the script sees it."""
        if self.leases.get(node, True):
            return 0, []
        rings = []
        for worker_id in held[:cap]:
            worker = self.workers[worker_id]
            self.counted.setdefault(node, {})[worker_id] = worker
            if self._give(worker, counted=True):
                rings.append(worker_id)
            else:
                self._owe_part(worker)
        if len(held) <= cap:
            del self.leases[node]
        return min(cap, len(held)), rings

    def exonerate(self, node: str) -> tuple[int, int]:
        counted = self.counted.pop(node, {})
        alive = [w for w in counted.values() if w.id in self.workers and not w.ended]
        for worker in alive:
            worker.spared += 1
        spared = [w for w in alive if w.spared <= SPARED_MOST]
        for worker in spared:
            worker.deaths -= 1
        return len(counted), len(spared)

    def wake(self, worker_id: str) -> bool:
        self.due.discard(f"wake:{worker_id}")
        worker = self.workers.get(worker_id)
        if worker is None or worker.state != "PARKED":
            return False
        self._pend(worker)
        return True

    def expire(self, item: str, children: Sequence[str], cap: int) -> list[str]:
        """`children` in the order of their ids."""
        kind, _, of = item.partition(":")
        if kind in ("batch", "rest", "tree"):
            self._stop_each(item, kind, of, children, cap)
            return []
        self.due.remove(item)
        worker = self.workers[of]
        if kind == "part":
            return [of]
        if kind == "deadline" and worker.state == "RUNNING":
            self._tell(worker, "timeout")
        elif kind == "deadline" or worker.told:
            self._finish(worker, "timeout" if kind == "deadline" else worker.told)
            self._owe_part(worker)
        return []

    def _stop_each(self, item: str, kind: str, of: str, children: Sequence[str], cap: int) -> None:
        batch = self.batches.get(of)
        members = batch.members if batch and (batch.open or kind == "rest") else []
        for worker_id in children if kind == "tree" else members:
            if cap == 0:
                return
            status = "timeout" if kind == "batch" else "stopped"
            verdict, anew = self._stop(worker_id, status, at_once=False)
            cap -= anew
            left = kind == "tree" or (kind == "rest" and self._is_unneeded(worker_id))
            if verdict == "ended" and left:
                self._go_down(self.workers[worker_id])
        self.due.remove(item)

    def _is_unneeded(self, worker_id: str) -> bool:
        worker = self.workers.get(worker_id)
        return worker is not None and worker.unneeded

    def join(self, batch_id: str) -> tuple[str, list[str]]:
        batch = self.batches.get(batch_id)
        if batch is None:
            return "unknown", []
        if not batch.open:
            return "done", []
        if not batch.enough:
            return "open", []
        batch.open = False
        self.totals["joined"] += 1
        self.joins.discard(batch_id)
        self.due.discard(f"batch:{batch_id}")
        missing = [w for w in batch.members if w not in batch.arrived]
        if missing:
            self.due.add(f"rest:{batch_id}")
        for worker in map(self.workers.__getitem__, missing):
            worker.filed, worker.filed_provisionally = worker.filed or "stopped", False
        if batch.on_complete:
            self.outbox.add(f"batch:{batch_id}")
        rings = []
        parent = self.workers.get(batch.parent)
        if parent and parent.state == "PARKED" and batch_id in parent.waits.split():
            self._pend(parent)
            rings.append(parent.id)
        return "joined", rings + (self._start_queued(batch) if batch.places else [])

    def _start_queued(self, ended: Batch) -> list[str]:
        started = []
        for unit in [unit for unit in self.units(ended.parent) if unit.queues]:
            if self._running(ended.parent) == ended.places:
                break
            unit.queues = False
            started += [
                w for w in map(self.workers.__getitem__, unit.members) if w.waits == "siblings"
            ]
        for worker in started:
            self._pend(worker)
        return [worker.id for worker in started]

    def retain(self, oldest: Sequence[str], most: int) -> int:
        """`oldest`: all ended workers in the order in which the script sees them."""
        surplus, forgotten = max(0, len(oldest) - most), 0
        for worker_id in oldest:
            if forgotten >= surplus:
                break
            worker = self.workers[worker_id]
            batch = self.batches.get(worker.batch)
            owed = {f"tree:{worker_id}", f"part:{worker_id}"} & self.due
            parent = self.workers.get(batch.parent) if batch else None
            awaited = batch is not None and (batch.open or (parent and not parent.ended))
            if owed or awaited or self.units(worker_id):
                continue
            del self.workers[worker_id]
            forgotten += 1
            if batch:
                batch.forgotten += 1
                if batch.forgotten == len(batch.members):
                    del self.batches[batch.id]
        return forgotten
