"""A colony that uses what Redis is used for: trees, a pipeline, triggers, webhooks, credentials."""

from __future__ import annotations

import os
from datetime import timedelta

from colony import AgentSpec, Colony, ColonyConfig, ToolContext
from colony.credentials import Credential
from colony.pipeline import RateLimit
from colony.testing_model import Call, report
from colony.triggers.spec import TimerConfig, TriggerSpec, TriggerType, WebhookConfig
from tests.definitions import SCRIPTS, echo, model, sleep
from tests.fleet.tree_definitions import each, told

SCRIPTS["tree"] = [each, told]
SCRIPTS["fall"] = [Call("fall_over", {"account": "work"}), report("success", "Fell over.")]
MODEL_URL = os.environ.get("TEST_MODEL_URL", "http://127.0.0.1:1/v1")

secure = Colony(
    "secure",
    goal="Be tested by users who may do little.",
    agent=AgentSpec(model=model(), spawns=True),
    agents=[
        AgentSpec(
            name="keyed",
            model="openai:gpt-5-mini",
            base_url=MODEL_URL,
            api_key_env="TEST_MODEL_KEY",
            max_retries=1,
        )
    ],
    credentials=[Credential(alias="work", provider="github", reference="env:TEST_ACCOUNT")],
    config=ColonyConfig(max_concurrent_workers=50),
    pipeline=[RateLimit(limit=10_000)],
    triggers=[
        TriggerSpec(
            id="clock",
            trigger_type=TriggerType.TIMER,
            trigger_config=TimerConfig(interval=timedelta(seconds=1)),
            task="fetch the time",
        ),
        TriggerSpec(
            id="hook",
            trigger_type=TriggerType.WEBHOOK,
            trigger_config=WebhookConfig(
                path="/in", scheme="bearer", secrets=("env:TEST_HOOK_SECRET",)
            ),
            task="fetch ${webhook.payload.what}",
        ),
    ],
)
secure.tool(read_only=True)(echo)


@secure.tool(provider="github")
async def fall_over(account: str, ctx: ToolContext) -> None:
    """Raise with the secret of an account."""
    raise RuntimeError(f"401: {(await ctx.credential(account)).get_secret_value()}")


secure.tool(sleep)
