"""A colony behind a pipeline of data and code, and one whose tools leak what they are trusted with."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from pydantic import JsonValue

from colony import AgentSpec, Colony, ToolContext
from colony.credentials import Credential
from colony.pipeline import (
    Continue,
    Credentials,
    Incoming,
    InputValidation,
    RateLimit,
    Reject,
    Transform,
    Verdict,
)
from colony.testing_model import Call, report
from tests.definitions import SCRIPTS, model, who_am_i

SCRIPTS["use"] = [
    Call("leak", {"account": "work"}),
    Call("fall_over", {"account": "work"}),
    Call("leak_in_a_thread", {"account": "mounted"}),
    Call("leak", {"account": "nobodys"}),
    Call("leak", {"account": "missing"}),
    report("success", "Used them."),
]
SCRIPTS["family"] = [
    Call("run_parallel_workers", {"tasks": [{"task": "fetch"}, {"task": "rm all"}]}),
    report("success", "All in."),
]


LOST: dict[str, type[OSError]] = {
    "look up": FileNotFoundError,
    "wait": TimeoutError,
    "call": ConnectionRefusedError,
}
"""What a stage that asks elsewhere may raise, which is no trouble of Redis."""


@dataclass(frozen=True, slots=True)
class House:
    """The rules of the house, as code."""

    name: str = "house"
    order: int = 50

    async def process(self, incoming: Incoming) -> Verdict:
        await asyncio.sleep(0)
        if incoming.task.startswith("rm"):
            return Reject(f"{incoming.caller} may not delete")
        if incoming.task.startswith("slip"):
            raise RuntimeError("the house fell over")
        if incoming.task in LOST:
            raise LOST[incoming.task]("the house has no way out")
        if incoming.data.get("polite"):
            data = {**incoming.data, "added": self.name}
            return Transform(task=f"{incoming.task} please", data=data, agent="clerk")
        return Continue()


house = House()
account = Credential(
    alias="work",
    provider="github",
    reference="env:TEST_PLANTED",
    identity={"login": "octo"},
    description="The company's.",
)
guarded = Colony(
    "guarded",
    agent=AgentSpec(model=model(), spawns=True),
    agents=[AgentSpec(name="clerk", model=model(), accounts=[])],
    pipeline=[
        house,
        InputValidation(schemas={"spawn": {"properties": {"n": {"type": "integer"}}}}),
        RateLimit(limit=3, key="{data.customer}"),
        Credentials(),
    ],
    credentials=[account],
)
guarded.tool(read_only=True)(who_am_i)


class Mounted:
    """A vault that reads what a test has planted."""

    async def fetch(self, name: str) -> str:
        return os.environ[f"TEST_{name.upper()}"]


trusted = Colony(
    "trusted",
    goal="Be tested.",
    agent=AgentSpec(model=model()),
    credentials=[
        account,
        Credential(alias="mounted", provider="ledger", reference="safe:planted_too"),
        Credential(alias="missing", provider="ledger", reference="env:TEST_NOT_SET"),
    ],
    vaults={"safe": Mounted()},
)


@trusted.tool(provider="github")
async def leak(account: str, ctx: ToolContext) -> JsonValue:
    """Tell and return a secret."""
    value = (await ctx.credential(account)).get_secret_value()
    await ctx.progress(f"signing in with {value}", token=value)
    return {"authorization": f"Bearer {value}", "nested": [[value]]}


@trusted.tool
async def fall_over(account: str, ctx: ToolContext) -> None:
    """Raise a secret."""
    raise RuntimeError(f"401: {(await ctx.credential(account)).get_secret_value()}")


@trusted.tool
def leak_in_a_thread(account: str, ctx: ToolContext) -> str:
    """Return a secret from a thread."""
    return ctx.credential_threadsafe(account).get_secret_value()
