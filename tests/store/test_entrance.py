"""The door of one process: stages are made of what the colony says of itself, anew when that changes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

import pytest

from colony.credentials import Credential
from colony.definition import ColonyConfig
from colony.errors import PipelineRejected
from colony.intake import Entrance, Intake
from colony.models import TaskSpec
from colony.pipeline import Continue, Incoming, RateLimit, Stage, StageContext, Verdict
from colony.pipeline.registry import dump
from colony.store import Store

SPEC = TaskSpec(task="Look.")


@dataclass
class Opened:
    """A stage that opens something, if it can."""

    name: str = "opened"
    order: int = 1
    fails: int = 0
    contexts: list[StageContext] = field(default_factory=list)

    async def initialize(self, context: StageContext) -> None:
        await asyncio.sleep(0.01)
        self.contexts.append(context)
        if len(self.contexts) <= self.fails:
            raise ConnectionError("not yet")

    async def process(self, incoming: Incoming) -> Verdict:
        return Continue()


def face(*stages: Stage, **more: str) -> dict[str, str]:
    """What a colony with these stages says of itself."""
    account = Credential(alias="work", provider="github", reference="env:X").public
    return {
        "config": ColonyConfig().model_dump_json(),
        "agents": json.dumps([{"name": "agent", "accounts": ["work"]}, {"name": "clerk"}]),
        "default_agent": "agent",
        "accounts": json.dumps([account.model_dump()]),
        "pipeline": dump(stages),
        **more,
    }


async def admit(entrance: Entrance) -> TaskSpec:
    return await entrance.admit(SPEC, 1, caller=None, idempotency_key=None)


async def test_a_stage_is_initialized_once_and_knows_the_colony(store: Store) -> None:
    stage = Opened()
    intake = Intake(store, [stage])
    entrances = await asyncio.gather(*(intake.entrance(face(stage)) for _ in range(20)))
    assert len({id(entrance) for entrance in entrances}) == 1
    changed = await intake.entrance(face(stage, RateLimit()))
    assert changed is not entrances[0]
    [context] = stage.contexts
    assert list(context.accounts) == ["work"]
    assert context.accounts_of == {"agent": frozenset({"work"}), "clerk": None}
    assert await admit(changed) == TaskSpec(task="Look.", agent="agent")


async def test_a_stage_that_cannot_be_initialized_rejects_until_it_can(store: Store) -> None:
    stage = Opened(fails=1)
    intake = Intake(store, [stage])
    with pytest.raises(PipelineRejected, match="opened failed to initialize: ConnectionError"):
        await intake.entrance(face(stage))
    stats = await store.stats()
    assert stats is not None
    assert stats.totals["pipeline_rejected"] == 1
    assert await admit(await intake.entrance(face(stage)))


async def test_a_changed_limit_holds_at_once(store: Store) -> None:
    intake = Intake(store)
    for _ in range(3):
        await admit(await intake.entrance(face(RateLimit(limit=3))))
    with pytest.raises(PipelineRejected, match="at most 3"):
        await admit(await intake.entrance(face(RateLimit(limit=3))))
    await admit(await intake.entrance(face(RateLimit(limit=4))))
    assert (await intake.entrance(face())).pipeline is None


async def test_a_colony_of_an_older_node_has_no_stages(store: Store) -> None:
    said = face()
    del said["pipeline"], said["accounts"]
    entrance = await Intake(store).entrance(said)
    assert entrance.pipeline is None
    assert await admit(entrance) == SPEC
