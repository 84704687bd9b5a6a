"""The door of one process: what a colony says of itself, and its pipeline, before anything is let in.

    face (limits, agents, accounts, pipeline) ──▶ Entrance ──▶ checked ──▶ admitted ──▶ store.accept

The face is read for every request, so that a definition which changes while the fleet runs is obeyed at once;
stages are made anew only when it has changed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from pydantic import TypeAdapter

from colony.credentials import Account
from colony.definition import ColonyConfig
from colony.errors import PipelineIncomplete, PipelineRejected, StoreUnavailable
from colony.models import TaskSpec
from colony.pipeline.registry import in_order, load
from colony.pipeline.run import STAGE_SECONDS, Pipeline
from colony.pipeline.stage import Incoming, Initializes, Stage, StageContext, request_id_of
from colony.store import Store
from colony.tasks import Limits, limits_in

log = logging.getLogger("colony.pipeline")

READ = ("config", "agents", "default_agent", "accounts", "pipeline")
"""The fields of the face that an entrance is made of."""
REJECTED = "pipeline_rejected"
_ACCOUNTS = TypeAdapter(list[Account])


@dataclass(frozen=True, slots=True)
class Entrance:
    """What holds for what comes in. `pipeline` is None for a colony that has no stages."""

    store: Store
    limits: Limits
    config: ColonyConfig
    pipeline: Pipeline | None

    async def first_answer(self, idempotency_key: str | None) -> list[str]:
        """The ids that were answered to this key; no stage is asked for what has its answer. Empty
        otherwise, and where there are no stages: then accepting asks."""
        if self.pipeline is None or not idempotency_key:
            return []
        return await self.store.known(idempotency_key)

    async def admit(
        self,
        spec: TaskSpec,
        count: int,
        *,
        caller: str | None,
        idempotency_key: str | None,
        entry: str = "spawn",
    ) -> TaskSpec:
        """What the pipeline makes of a task that is to be spawned. Raises `PipelineRejected`."""
        if self.pipeline is None:
            return spec
        request_id = request_id_of(idempotency_key)
        return _spec(await self.pipeline.run(_incoming(entry, spec, caller, request_id, count)))

    async def admit_batch(
        self, specs: Sequence[TaskSpec], *, caller: str | None, idempotency_key: str | None
    ) -> list[TaskSpec]:
        """The same for the tasks of a batch, all or none; the reason names the index."""
        if self.pipeline is None:
            return list(specs)
        request_id = request_id_of(idempotency_key)
        incomings = [_incoming("spawn", spec, caller, request_id) for spec in specs]
        return [_spec(incoming) for incoming in await self.pipeline.run_batch(incomings)]


class Intake:
    """Makes the entrance of a colony; `own` are the stages that are code of this process.

    Raises `PipelineIncomplete` where the colony names a stage that this process cannot run.
    """

    def __init__(self, store: Store, own: Sequence[Stage] = ()) -> None:
        self._store = store
        self._own = {one.name: one for one in in_order(own)}
        self._ready: set[str] = set()
        self._lock = asyncio.Lock()
        self._made: tuple[list[str], Entrance] | None = None

    async def entrance(self, face: Mapping[str, str]) -> Entrance:
        """The entrance for what the colony says of itself now."""
        said = [face.get(field, "") for field in READ]
        async with self._lock:
            if self._made is None or self._made[0] != said:
                self._made = said, await self._make(face)
            return self._made[1]

    async def _make(self, face: Mapping[str, str]) -> Entrance:
        limits, config = limits_in(face)
        stages = load(face.get("pipeline") or "[]", self._own, self._store.colony_id)
        if not stages:
            return Entrance(self._store, limits, config, None)
        context = self._context(face, config)
        for one in stages:
            await self._initialize(one, context)
        pipeline = Pipeline(
            stages,
            limits=limits,
            default_agent=face["default_agent"],
            count_rejected=partial(self._store.tally, REJECTED),
        )
        return Entrance(self._store, limits, config, pipeline)

    def _context(self, face: Mapping[str, str], config: ColonyConfig) -> StageContext:
        accounts = {a.alias: a for a in _ACCOUNTS.validate_json(face.get("accounts") or "[]")}
        named = {a["name"]: a.get("accounts") for a in json.loads(face["agents"])}
        return StageContext(
            self._store.colony_id,
            self._store,
            config.idempotency_ttl,
            accounts,
            {name: None if own is None else frozenset(own) for name, own in named.items()},
        )

    async def _initialize(self, one: Stage, context: StageContext) -> None:
        """Once for a stage that is code; data is made anew with each face."""
        if not isinstance(one, Initializes) or one.name in self._ready:
            return
        try:
            async with asyncio.timeout(STAGE_SECONDS):
                await one.initialize(context)
        except (StoreUnavailable, PipelineIncomplete):
            raise
        except Exception as error:
            log.exception("stage %r cannot be initialized: what comes in is rejected", one.name)
            await self._store.tally(REJECTED)
            what = f"stage {one.name} failed to initialize: {type(error).__name__}"
            raise PipelineRejected(one.name, what) from error
        if one.name in self._own:
            self._ready.add(one.name)


def _incoming(
    entry: str, spec: TaskSpec, caller: str | None, request_id: str, count: int = 1
) -> Incoming:
    return Incoming(entry, caller, spec.task, spec.data, spec.agent, count, request_id)


def _spec(incoming: Incoming) -> TaskSpec:
    return TaskSpec(task=incoming.task, data=dict(incoming.data), agent=incoming.agent)
