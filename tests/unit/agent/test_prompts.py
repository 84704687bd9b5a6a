"""What the model is told before it begins."""

from __future__ import annotations

from pydantic_ai.messages import ModelRequest, UserPromptPart

from colony.definition import AgentSpec
from colony.testing_model import Call
from tests.unit.agent.harness import Harness
from workers.agent.prompts import instructions, task_prompt


def test_data_is_rendered_below_the_task_and_what_is_empty_is_left_out() -> None:
    data = {
        "city": "Köln",
        "n": 0,
        "ok": False,
        "tags": ["a", "ü"],
        "none": None,
        "blank": "",
        "empty": {},
        "nothing": [],
    }
    rendered = task_prompt("Look.", data)  # type: ignore[arg-type]
    assert rendered == 'Look.\n\ncity: Köln\nn: 0\nok: false\ntags: ["a", "ü"]'
    assert task_prompt("Look.", {"none": None}) == "Look."


def test_instructions_hold_goal_instructions_and_how_to_end() -> None:
    text = instructions("Find food.", AgentSpec("test", instructions="Be brief."))
    goal, own, end = text.split("\n\n")
    assert "Find food." in goal
    assert own == "Be brief."
    assert "report_to_parent" in end
    assert instructions("", AgentSpec("test")) == end


async def test_the_model_gets_them_with_every_question(agent: Harness) -> None:
    def look() -> None:
        """Look."""

    await agent.run([Call("look"), "Done."], look, data={"n": 1}, instructions="Be brief.")
    first = agent.seen[-1][0]
    assert isinstance(first, ModelRequest)
    (prompt,) = first.parts
    assert isinstance(prompt, UserPromptPart)
    assert prompt.content == "Look north.\n\nn: 1"
    assert "Be brief." in (first.instructions or "")
