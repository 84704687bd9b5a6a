"""The scripted model that Colony offers to its users' tests."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from traceback import walk_tb
from typing import Any

import pytest

from colony.testing_model import Call, HttpError, ScriptedModel, ScriptItem, report
from tests.unit.agent.harness import Harness


def look() -> str:
    """Look."""
    return "seen"


async def test_it_goes_on_where_the_messages_end(agent: Harness) -> None:
    script: list[ScriptItem] = [
        Call("look"),
        ["And again.", Call("look")],
        report("success", "Done.", {"n": 1}),
    ]
    await agent.run(script, look)
    parts = agent.journal.parts[:3]
    outcome = await agent.reported(ScriptedModel(script), look, parts=parts)
    assert outcome.data == {"n": 1}


async def test_failures_come_once_and_a_last_one_always(agent: Harness) -> None:
    script: list[ScriptItem] = [HttpError(429), "One."]
    model = agent.scripted(script)
    assert (await agent.reported(model)).summary == "One."
    assert (await agent.reported(model)).summary == "One."
    assert len(agent.seen) == 4
    await agent.reported([HttpError(429)], max_retries=3)
    assert len(agent.seen) == 4


async def test_an_error_that_is_raised_again_keeps_nothing_of_earlier_runs(agent: Harness) -> None:
    error = RuntimeError("always")
    model = ScriptedModel([error])
    traces = []
    for _ in range(3):
        outcome = await agent.reported(model, max_retries=0)
        assert outcome.error is not None
        assert "always" in outcome.error
        traces.append(len(list(walk_tb(error.__traceback__))))
    assert traces == [traces[0]] * 3


async def test_beyond_the_script_is_an_error_that_says_so(agent: Harness) -> None:
    outcome = await agent.reported([Call("look")], look)
    assert outcome.error is not None
    assert outcome.error.startswith("ScriptEnded: the script of model 'scripted' has 1 answers")


async def test_an_item_may_be_made_from_the_messages(agent: Harness) -> None:
    outcome = await agent.reported([lambda messages, parameters: f"{len(messages)} message"])
    assert outcome.summary == "1 message"


async def test_it_records_each_request(agent: Harness, tmp_path: Path) -> None:
    record = tmp_path / "requests"
    model = ScriptedModel([Call("look"), "Done."], record=record)
    await asyncio.gather(*(Harness(agent.threads).run(model, look) for _ in range(5)))
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert sorted(line["answers"] for line in lines) == [0] * 5 + [1] * 5
    assert {line["task"] for line in lines} == {"Look north."}


async def test_tokens_are_those_that_were_asked_for(agent: Harness) -> None:
    await agent.run(ScriptedModel(["Done."], input_tokens=7, output_tokens=2))
    assert agent.journal.steps[0].tokens == 9


def test_a_script_is_a_list() -> None:
    wrongs: list[Any] = ["text", []]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="at least one answer"):
            ScriptedModel(wrong)
