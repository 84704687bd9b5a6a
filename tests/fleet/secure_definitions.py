"""A colony that uses what Redis is used for: trees, a pipeline, triggers, webhooks, credentials."""

from __future__ import annotations

from datetime import timedelta

from colony import AgentSpec, Colony, ColonyConfig
from colony.pipeline import RateLimit
from colony.triggers.spec import TimerConfig, TriggerSpec, TriggerType, WebhookConfig
from tests.definitions import SCRIPTS, echo, model, sleep
from tests.fleet.tree_definitions import each, told

SCRIPTS["tree"] = [each, told]

secure = Colony(
    "secure",
    goal="Be tested by users who may do little.",
    agent=AgentSpec(model=model(), spawns=True),
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
secure.tool(sleep)
