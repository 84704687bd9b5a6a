"""Agents that have work done in the background: the first word of a task picks a script, its other
words are the tasks of the units. Each script ends by reporting what its agent was told.

``one rest 1`` dispatches one unit that rests; ``each fetch / fail`` two units in one answer;
``batch fetch / fail`` one unit of two.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from pydantic import JsonValue
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolReturnPart, UserPromptPart
from pydantic_ai.models import ModelRequestParameters

from colony import AgentSpec, Colony
from colony.testing_model import Call, Item, ScriptedModel, ScriptItem, report
from tests.definitions import task_of
from tests.fleet.tree_definitions import hold, rest

HEAD = "[BACKGROUND WORK ENDED: "
DELEGATE = "delegate_task"


def words(messages: list[ModelMessage]) -> list[str]:
    """The tasks that a task names after its first word."""
    text = task_of(messages).partition("\n")[0].partition(" ")[2]
    return [task.strip() for task in text.split("/") if task.strip()]


def one(messages: list[ModelMessage], _: ModelRequestParameters) -> Call:
    """``… task``: one unit."""
    return Call(DELEGATE, {"goal": words(messages)[0], "context": "It is winter."})


def brief(messages: list[ModelMessage], _: ModelRequestParameters) -> Call:
    """``… task``: one unit that has half a second."""
    return Call(DELEGATE, {"goal": words(messages)[0], "timeout_seconds": 0.5})


def each(messages: list[ModelMessage], _: ModelRequestParameters) -> list[Call | str]:
    """``… task / task / …``: a unit for each, in one answer."""
    return [Call(DELEGATE, {"goal": task}) for task in words(messages)]


def early(messages: list[ModelMessage], _: ModelRequestParameters) -> list[Call | str]:
    """``… task``: one unit, and in the same answer what there is to report before it ends."""
    return [
        Call(DELEGATE, {"goal": words(messages)[0]}),
        report("partial", "So far.", {"rows": 2}),
    ]


def batch(messages: list[ModelMessage], _: ModelRequestParameters) -> Call:
    """``… task / task / …``: one unit of all."""
    tasks: list[JsonValue] = [
        {"task": task, "agent": "scout", "data": {"number": number}}
        for number, task in enumerate(words(messages), 1)
    ]
    return Call(DELEGATE, {"tasks": tasks, "context": "It is winter."})


def nested(messages: list[ModelMessage], _: ModelRequestParameters) -> Call:
    """``… task``: one unit whose worker has that done in the background, too."""
    return Call(DELEGATE, {"goal": f"one {words(messages)[0]}"})


def told(messages: list[ModelMessage], _: ModelRequestParameters) -> Call:
    """Report what was told: the blocks, the results of the dispatches, and who spoke in which order."""
    parts = [part for m in messages if isinstance(m, ModelRequest) for part in m.parts]
    said = [str(part.content) for part in parts if isinstance(part, UserPromptPart)]
    results = [p for p in parts if isinstance(p, ToolReturnPart) and p.tool_name == DELEGATE]
    return report(
        "success",
        "All told.",
        {
            "blocks": [text for text in said if text.startswith(HEAD)],
            "dispatches": [part.content for part in results],
            "order": [_kind(message) for message in messages],
        },
    )


def _kind(message: ModelMessage) -> str:
    if not isinstance(message, ModelRequest):
        return "answer"
    kinds = sorted({type(part).__name__ for part in message.parts})
    block = any(str(getattr(part, "content", "")).startswith(HEAD) for part in message.parts)
    return "told" if block and kinds == ["UserPromptPart"] else "+".join(kinds)


def hold_named(messages: list[ModelMessage], _: ModelRequestParameters) -> Call:
    """``hold NAME``: wait for the gate of that name."""
    return Call("hold", {"gate": task_of(messages).split()[1]})


def held_while_out(messages: list[ModelMessage], _: ModelRequestParameters) -> Call:
    """``work task / NAME``: go on working while the unit is out, until the gate opens."""
    return Call("hold", {"gate": words(messages)[1]})


def rest_named(messages: list[ModelMessage], _: ModelRequestParameters) -> Call:
    """``rest SECONDS``: wait."""
    return Call("rest", {"seconds": float(task_of(messages).split()[1])})


SCRIPTS: dict[str, list[ScriptItem]] = {
    "one": [one, "That is all, I think.", told],
    "brief": [brief, told],
    "each": [each, told],
    "early": [early, told],
    "batch": [batch, told],
    "work": [one, held_while_out, told],
    "nested": [nested, told],
    "hold": [hold_named, report("success", "Held.", {"k": 1})],
    "rest": [rest_named, report("success", "Rested.")],
    "fetch": [report("success", "Fetched 5 rows.", {"rows": 5})],
    "fail": [report("failed", "Could not fetch.")],
}


def _step(index: int) -> Callable[[list[ModelMessage], ModelRequestParameters], Item]:
    def choose(messages: list[ModelMessage], parameters: ModelRequestParameters) -> Item:
        script = SCRIPTS[task_of(messages).split()[0]]
        item = script[min(index, len(script) - 1)]  # asked again after each end: the last one again
        return item(messages, parameters) if callable(item) else item

    return choose


def model() -> ScriptedModel:
    """Plays the script that its task names."""
    return ScriptedModel([_step(index) for index in range(20)])


background = Colony(
    "background",
    goal="Be tested.",
    agent=AgentSpec(model=model(), spawns=True),
    agents=[
        AgentSpec(name="strict", model=model(), spawns=True, max_async_children=1),
        AgentSpec(
            name="patient",
            model=model(),
            spawns=True,
            max_async_children=1,
            async_policy="queue",
        ),
        AgentSpec(name="brisk", model=model(), spawns=True, max_turns=1),
        AgentSpec(name="leaver", model=model(), spawns=True, at_end="leave"),
        AgentSpec(name="scout", model=model(), tools=["rest"]),
    ],
)
background.tool(idempotent=True, timeout=timedelta(seconds=120))(hold)
background.tool(idempotent=True, timeout=timedelta(seconds=120))(rest)
