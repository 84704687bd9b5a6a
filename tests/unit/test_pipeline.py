"""Stages in order over what comes in: let through, changed or refused, never skipped."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from colony import AgentSpec, Colony, ColonyConfig
from colony.errors import DefinitionError, PipelineIncomplete, PipelineRejected
from colony.pipeline import (
    Continue,
    Incoming,
    InputValidation,
    ModelValidation,
    RateLimit,
    Reject,
    Stage,
    StageEntry,
    Transform,
    Verdict,
    registry,
    run,
    stage,
)
from colony.pipeline.registry import build, dump, load
from colony.pipeline.run import Pipeline
from colony.tasks import Limits


@dataclass
class Step:
    """A stage that answers what it was made with, and remembers what it was asked."""

    name: str
    order: int = 100
    verdict: Any = field(default_factory=Continue)
    asked: list[Incoming] = field(default_factory=list)

    async def process(self, incoming: Incoming) -> Verdict:
        self.asked.append(incoming)
        if isinstance(self.verdict, Exception):
            raise self.verdict
        answer: Verdict = self.verdict
        return answer


@stage("test_office_hours")
class OfficeHours(BaseModel):
    """A type of data of one's own."""

    model_config = ConfigDict(frozen=True)

    name: str = "office_hours"
    order: int = 10
    closes: int

    async def process(self, incoming: Incoming) -> Verdict:
        return Continue()


class Counted:
    """A pipeline of these stages, and how often it has rejected."""

    def __init__(self, *stages: Stage) -> None:
        self.rejected = 0
        self.pipeline = Pipeline(
            registry.in_order(stages),
            limits=Limits(100, 100, frozenset({"agent", "clerk"})),
            default_agent="agent",
            count_rejected=self._count,
        )

    async def _count(self) -> None:
        self.rejected += 1

    async def run(self, **more: Any) -> Incoming:
        return await self.pipeline.run(incoming(**more))

    async def refused(self, **more: Any) -> PipelineRejected:
        with pytest.raises(PipelineRejected) as caught:
            await self.run(**more)
        assert self.rejected == 1
        return caught.value


def incoming(**more: Any) -> Incoming:
    return Incoming(**{"entry": "spawn", "caller": None, "task": "Look.", "data": {}, **more})


async def test_stages_run_by_order_and_equals_as_they_were_given() -> None:
    asked: list[str] = []

    @dataclass
    class Noting(Step):
        async def process(self, incoming: Incoming) -> Verdict:
            asked.append(self.name)
            return Continue()

    stages = [Noting("c", 5), Noting("a", 5), Noting("b", 1), Noting("d", 5)]
    await Counted(*stages).run()
    assert asked == ["b", "c", "a", "d"]


async def test_a_transform_is_seen_by_the_stages_after_it_and_comes_out() -> None:
    last = Step("last", 3)
    first = Step("first", 1, Transform(task="Look north.", agent="clerk"))
    out = await Counted(last, Step("second", 2, Transform(data={"n": 1})), first).run()
    assert (out.task, out.data, out.agent) == ("Look north.", {"n": 1}, "clerk")
    assert last.asked == [out]


async def test_a_rejection_names_stage_and_reason_is_counted_and_ends_it() -> None:
    after = Step("after", 200)
    refused = await Counted(Step("gate", 100, Reject("closed", 3.0)), after).refused()
    assert (refused.stage, refused.reason, refused.retry_after) == ("gate", "closed", 3.0)
    assert not after.asked


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (RuntimeError("no db"), "stage gate failed: RuntimeError"),
        (None, "stage gate failed: TypeError"),
        ("continue", "stage gate failed: TypeError"),
        (Transform(task=" "), "what it made of it: task is blank"),
        (Transform(task="x" * 101), "what it made of it: task has 101 bytes"),
        (Transform(data={"k": "x" * 100}), "what it made of it: data has"),
        (Transform(data={"k": float("nan")}), "what it made of it: data is not JSON"),
        (Transform(agent="nobody"), "what it made of it: agent 'nobody' is unknown"),
    ],
)
async def test_a_stage_that_fails_rejects(
    verdict: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    refused = await Counted(Step("gate", 1, verdict)).refused()
    assert refused.stage == "gate"
    assert refused.reason.startswith(reason)
    if isinstance(verdict, Exception):
        assert [r.levelno for r in caplog.records] == [logging.ERROR]
        assert "no db" in caplog.text


async def test_a_stage_that_hangs_rejects(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Hangs(Step):
        async def process(self, incoming: Incoming) -> Verdict:
            await asyncio.Event().wait()
            return Continue()

    monkeypatch.setattr(run, "STAGE_SECONDS", 0.05)
    assert (await Counted(Hangs("slow")).refused()).reason == "stage slow failed: TimeoutError"


async def test_the_default_agent_is_known_to_the_stages() -> None:
    step = Step("gate")
    await Counted(step).run()
    assert step.asked[0].agent == "agent"


async def test_of_a_batch_the_index_is_told_and_a_stage_may_take_it_together() -> None:
    class Together(Step):
        async def process_batch(self, incomings: Sequence[Incoming]) -> Sequence[Verdict]:
            return [Reject("odd") if i.data["n"] == 3 else Continue() for i in incomings]

    both = Counted(each := Step("each", 1), Together("together", 2))
    assert len(await both.pipeline.run_batch([incoming(data={"n": n}) for n in range(3)])) == 3
    with pytest.raises(PipelineRejected, match=r"'together': tasks\[3\]: odd"):
        await both.pipeline.run_batch([incoming(data={"n": n}) for n in range(200)])
    assert len(each.asked) == 203
    assert both.rejected == 1


def test_configuration_makes_stages_and_an_unknown_type_lists_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries = '[{"type": "rate_limit", "order": 7, "config": {"limit": 5, "per": 1.5}}]'
    monkeypatch.setenv("COLONY_PIPELINE", entries)
    colony = Colony("c", agent=AgentSpec("test"), pipeline=[Step("own", 9), Step("early", 1)])
    assert [one.name for one in colony.pipeline] == ["early", "rate_limit", "own"]
    assert colony.pipeline[1] == RateLimit(order=7, limit=5, per=timedelta(seconds=1.5))
    unknown = ColonyConfig(pipeline=(StageEntry(type="rate_limits"),))
    with pytest.raises(DefinitionError, match=r"'rate_limits'; available are: credentials, input"):
        Colony("c", agent=AgentSpec("test"), config=unknown)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"type": "rate_limit", "config": {"limit": 0}}, "limit"),
        ({"type": "rate_limit", "config": {"limt": 5}}, "limt"),
        ({"type": "rate_limit", "config": {"key": "{who}"}}, r"unknown field \{who\}; known are"),
        ({"type": "rate_limit", "config": {"key": "{data}"}}, r"unknown field \{data\}"),
        ({"type": "rate_limit", "config": {"key": "{entry"}}, "not a template"),
        ({"type": "test_office_hours"}, "closes"),
    ],
)
def test_a_wrong_configuration_says_what(entry: dict[str, Any], words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        build(StageEntry.model_validate(entry))


def test_two_stages_of_one_name_and_what_is_no_stage() -> None:
    for stages, words in (
        ([RateLimit(), RateLimit()], "two stages are named 'rate_limit'"),
        ([object()], "expected stages .* got object"),
    ):
        with pytest.raises(DefinitionError, match=words):
            Colony("c", agent=AgentSpec("test"), pipeline=stages)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="is taken"):
        stage("rate_limit")(OfficeHours)


def test_the_face_carries_data_and_names_code() -> None:
    code = Step("own", 50)
    stages: list[Stage] = [
        OfficeHours(closes=18),
        code,
        RateLimit(name="per-customer", key="{data.customer}"),
    ]
    face = dump(stages)
    assert load(face, {"own": code}, "c") == stages
    assert json.loads(face)[1] == {"type": "code", "order": 50, "config": {"name": "own"}}
    extra = Step("extra", 1)
    assert load(face, {"own": code, "extra": extra}, "c") == [extra, *stages]
    with pytest.raises(PipelineIncomplete, match=r"'own' that is code.*ColonyRuntime\('c', pipel"):
        load(face, {}, "c")
    foreign = '[{"type": "holidays", "order": 1, "config": {}}]'
    with pytest.raises(PipelineIncomplete, match=r"Import the module .* @stage\('holidays'\)"):
        load(foreign, {}, "c")


SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["rows"],
    "properties": {
        "rows": {"type": "array", "items": {"$ref": "#/$defs/row"}},
        "mail": {"type": "string", "format": "ipv4"},
    },
    "$defs": {"row": {"type": "object", "properties": {"n": {"type": "integer"}}}},
}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"rows": [{"n": 1}]}, None),
        ({}, "data: 'rows' is a required property"),
        ({"rows": [{"n": 1}, {"n": "x"}]}, "data.rows[1].n: 'x' is not of type 'integer'"),
        ({"rows": [], "mail": "me"}, "data.mail: 'me' is not a 'ipv4'"),
    ],
)
async def test_a_json_schema_names_field_and_reason(data: Any, reason: str | None) -> None:
    checked = InputValidation(schemas={"spawn": SCHEMA})
    verdict = await checked.process(incoming(data=data))
    assert verdict == (Continue() if reason is None else Reject(reason))
    assert await checked.process(incoming(entry="other", data=data)) == Continue()
    others = InputValidation(schemas={"*": SCHEMA})
    assert await others.process(incoming(entry="other", data=data)) == verdict


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"$ref": "https://example.org/s.json"}, "refers to 'https://example.org"),
        ({"items": [{"$dynamicRef": "file:///etc/passwd"}]}, "refers to 'file:"),
        ({"$ref": "other.json#/x"}, "must stay within"),
        ({"type": "objekt"}, "is no JSON schema"),
    ],
)
def test_a_schema_that_is_wrong_or_refers_elsewhere(schema: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        InputValidation(schemas={"spawn": schema})


def test_a_process_without_jsonschema_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    face = dump([InputValidation(schemas={"spawn": SCHEMA})])
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(PipelineIncomplete, match=r"pip install 'colony\[jsonschema\]'"):
        load(face, {}, "c")


async def test_a_pydantic_model_names_field_and_reason_without_the_input() -> None:
    class Order(BaseModel):
        item: str
        packs: int = 1

    checked = ModelValidation({"spawn": Order})
    assert await checked.process(incoming(data={"item": "tea"})) == Continue()
    assert await checked.process(incoming(entry="x", data={})) == Continue()
    verdict = await checked.process(incoming(data={"item": "tea", "packs": "s3cr3t"}))
    assert isinstance(verdict, Reject)
    assert verdict.reason.startswith("data.packs: Input should be a valid integer")
    assert "s3cr3t" not in verdict.reason
