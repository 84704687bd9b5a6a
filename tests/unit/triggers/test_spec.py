"""What a trigger's specification may say, and how its task is filled."""

from __future__ import annotations

import traceback
from datetime import timedelta
from typing import Any

import pytest

from colony.errors import InvalidTrigger
from colony.triggers import TimerConfig, TriggerSpec, WebhookConfig
from colony.triggers.template import fill


def spec(**fields: Any) -> dict[str, Any]:
    return {
        "id": "daily",
        "trigger_type": "timer",
        "trigger_config": {"cron": "0 9 * * *"},
        "task": "Look around.",
        **fields,
    }


def webhook(**fields: Any) -> dict[str, Any]:
    config = {"path": "/github/push", "secrets": ["env:HOOK"], **fields}
    return spec(trigger_type="webhook", trigger_config=config)


def test_it_survives_json() -> None:
    """Kept as JSON and read back, it is the same, with the configuration of its type."""
    given = [
        spec(trigger_config={"interval": 90, "jitter": 90, "skip_when_active_within": "300"}),
        webhook(scheme="github", methods=["post"]),
        spec(trigger_type="event", trigger_config={"types": ["subagent_report"]}),
        spec(trigger_type="manual", trigger_config={}),
    ]
    for fields in given:
        made = TriggerSpec.of(fields)
        assert TriggerSpec.model_validate_json(made.model_dump_json()) == made
    timer = TriggerSpec.of(given[0]).timer
    assert isinstance(timer, TimerConfig)
    assert timer.interval == timedelta(seconds=90)
    assert isinstance(TriggerSpec.of(given[1]).webhook, WebhookConfig)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (spec(id="no spaces"), "id"),
        (spec(trigger_type="sundial"), "trigger_type"),
        (spec(trigger_config={}), "either cron or interval"),
        (spec(trigger_config={"cron": "0 9 * * *", "interval": 5}), "either cron or interval"),
        (spec(trigger_config={"cron": "0 0 30 2 *"}), "never fires"),
        (spec(trigger_config={"interval": 0.1}), "interval"),
        (spec(trigger_config={"interval": 5, "timezone": "Moon"}), "unknown time zone"),
        (spec(trigger_config={"intervall": 5}), "intervall"),
        (webhook(path="no-slash"), "path"),
        (webhook(path="/a/../b"), "path"),
        (webhook(methods=["GET"]), "methods"),
        (webhook(secrets=[]), "secrets"),
        (webhook(secrets=["vault:hook"]), "secrets: .*env:NAME or file:/path"),
        (webhook(secrets=["env:A"] * 5), "secrets"),
        (webhook(scheme="none"), "scheme"),
        (
            spec(trigger_type="event", trigger_config={"types": ["x"], "colony": "a}:b"}),
            "colony",
        ),
        (spec(task="Hello ${person.name}"), "may name"),
        (spec(task="Costs 5 $ at most"), "write \\$\\$"),
        (spec(task=""), "task"),
        (spec(task=" \n"), "task: .*blank"),
        (spec(trigger_config={"cron": 9}), r"^trigger_config\.cron: "),
        (webhook(path="no-slash"), r"^trigger_config\.path: "),
        (spec(trigger_config=["cron"]), "^trigger_config: "),
        (spec(trigger_type="manual"), r"^trigger_config\.cron: "),
        (spec(max_concurrent=0), "max_concurrent"),
        (spec(concurrency_policy="drop"), "concurrency_policy"),
        (spec(colour="red"), "colour"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_field(fields: dict[str, Any], says: str) -> None:
    """Nothing is guessed, nothing is ignored."""
    with pytest.raises(InvalidTrigger, match=says):
        TriggerSpec.of(fields)


@pytest.mark.parametrize(
    "given", [["whsec_C2FVsBQIhrscChlQIMV+b5sS"], "hush-hush", ["env:A", "hush:"]]
)
def test_a_secret_is_named_and_a_pasted_one_is_not_repeated(given: Any) -> None:
    """Not in the error, nor in what it came from."""
    for make in (
        lambda: TriggerSpec.of(webhook(secrets=given)),
        lambda: TriggerSpec.model_validate(webhook(secrets=given)),
        lambda: WebhookConfig(path="/x", secrets=given),
    ):
        with pytest.raises(ValueError, match="never given itself") as caught:
            make()
        told = "".join(traceback.format_exception(caught.value))
        assert "whsec" not in told
        assert "hush" not in told


VALUES: dict[str, Any] = {
    "webhook": {"payload": {"title": "Broken", "labels": ["bug", "p1"], "user": {"id": 7}}},
    "trigger": {"id": "issues"},
}


def test_a_template_is_filled_from_what_came_in() -> None:
    """Text as it is, the rest as JSON; $$ is a dollar."""
    text = "${webhook.payload.title}: ${webhook.payload.labels.1}, ${webhook.payload.user} ($$5)"
    assert fill(text, VALUES) == 'Broken: p1, {"id": 7} ($5)'


@pytest.mark.parametrize("path", ["webhook.payload.body", "webhook.payload.labels.2", "input.x"])
def test_a_name_that_leads_nowhere_is_an_error(path: str) -> None:
    """It is named; no task with a hole in it is accepted."""
    with pytest.raises(ValueError, match="there is no"):
        fill(f"Do ${{{path}}}", VALUES)


def test_what_came_in_is_not_a_template_itself() -> None:
    """A payload that looks like a template stays as it is."""
    values = {"webhook": {"payload": {"title": "${trigger.id} $$"}}, "trigger": {"id": "t"}}
    assert fill("${webhook.payload.title}", values) == "${trigger.id} $$"  # type: ignore[arg-type]
