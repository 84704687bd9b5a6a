"""The colony of the chaos suite: a model with latency and faults, workers of many kinds, and its notes.

A task is ``<kind> <name>``; the name is unique, and a child's is ``<parent's>.<call>.<index>``. Every
question to the model is noted in the file ``TEST_CALLS`` *before* it is answered, every effect of a tool
that must not be repeated in ``TEST_EFFECTS``, one JSON line each, by the host's clock.

Further switches of a node: ``TEST_VERSION`` (of the definition), ``TEST_TWICE`` (the share of scripts that
are sent twice, as after a lost answer), ``TEST_MUTANT`` (`tests.chaos.mutants`).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from zlib import crc32

from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings

from colony import AgentSpec, Colony, ColonyConfig, Park, ToolContext
from colony.store import Link
from colony.store.link import Reply
from colony.store.scripts import Script
from colony.testing_model import Call, Item, ScriptedModel, report
from tests.chaos import mutants, witness
from tests.definitions import task_of

LATENCY_SECONDS = (0.05, 0.3)
FAULT_SHARE = 0.04
TOKENS = (10, 5)
LONGEST_SCRIPT = 40

LEAVES = ("plain", "plain", "sleeper", "long")
CHILDREN = (*LEAVES, "parent")


def note(variable: str, line: Mapping[str, Any]) -> None:
    """One line in the file that the variable names, also from several processes at once."""
    text = json.dumps({"at": time.clock_gettime(time.CLOCK_REALTIME), "pid": os.getpid(), **line})
    file = os.open(Path(os.environ[variable]), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, text.encode() + b"\n")
    finally:
        os.close(file)


# -- the model -------------------------------------------------------------------------------


def kind_and_name(messages: list[ModelMessage]) -> tuple[str, str]:
    """What a conversation's task says."""
    kind, name = task_of(messages).split()[:2]
    return kind, name


def _children(name: str, call: int, kinds: tuple[str, ...]) -> list[dict[str, str]]:
    """Two to four tasks; which follows from the name, so that the same call asks for the same."""
    dice = random.Random(crc32(f"{name}.{call}".encode()))
    count = dice.randint(2, 4)
    return [{"task": f"{dice.choice(kinds)} {name}.{call}.{i}"} for i in range(count)]


def _plain(name: str, answers: int) -> Item:
    calls = [Call("echo", {"value": 1}), Call("effect", {"what": name}), Call("put", {"value": 2})]
    return calls[answers] if answers < len(calls) else report("success", "Done.", {"name": name})


def _slow(name: str, answers: int) -> Item:
    if answers < 12:
        return Call("echo", {"value": answers})
    return report("success", "Done.", {"name": name})


def _parent(name: str, answers: int) -> Item:
    depth = name.count(".") // 2
    if answers == 0:
        kinds = CHILDREN if depth == 0 else LEAVES
        return Call("run_parallel_workers", {"tasks": _children(name, 0, kinds)})
    return report("success", "All are in.", {"name": name})


def _delegate(name: str, answers: int) -> Item:
    if answers == 0:
        return Call("delegate_task", {"tasks": _children(name, 0, LEAVES)})
    if answers == 1:
        return Call("echo", {"value": 1})
    if answers == 2:
        return Call("delegate_task", {"goal": f"plain {name}.2.0"})
    return report("success", "Delegated.", {"name": name})


def _sleeper(name: str, answers: int) -> Item:
    if answers < 2:
        return Call("rest", {"seconds": 0.3 + crc32(name.encode()) % 10 / 10})
    return report("success", "Rested.", {"name": name})


def _long(name: str, answers: int) -> Item:
    if answers == 0:
        return [Call("echo", {"value": n}) for n in range(3)]
    return report("success", "Long.", {"name": name, "text": "x" * 20_000})


def _killer(name: str, answers: int) -> Item:
    if answers == 0:
        return Call("kill_my_node", {"after": 0.2})
    return report("success", "Survived?", {"name": name})


SCRIPTS: dict[str, Callable[[str, int], Item]] = {
    "plain": _plain,
    "slow": _slow,
    "parent": _parent,
    "delegate": _delegate,
    "sleeper": _sleeper,
    "long": _long,
    "killer": _killer,
}


def _step(answers: int) -> Callable[[list[ModelMessage], ModelRequestParameters], Item]:
    def choose(messages: list[ModelMessage], _: ModelRequestParameters) -> Item:
        kind, name = kind_and_name(messages)
        return SCRIPTS[kind](name, answers)

    return choose


class ChaosModel(ScriptedModel):
    """Takes its time, fails now and then, and notes each question when it is asked."""

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """The answer that is due, later."""
        answers = sum(isinstance(message, ModelResponse) for message in messages)
        note("TEST_CALLS", {"task": kind_and_name(messages)[1], "answers": answers})
        await asyncio.sleep(random.uniform(*LATENCY_SECONDS))
        if random.random() < FAULT_SHARE:
            raise ModelHTTPError(503, self.model_name, {"error": {"message": "overloaded"}})
        return await super().request(messages, model_settings, model_request_parameters)


# -- the tools -------------------------------------------------------------------------------


async def echo(value: int) -> int:
    """Give a value back."""
    return value


async def put(value: int) -> int:
    """Have an effect that may be repeated."""
    await asyncio.sleep(0.05)
    return value


async def effect(what: str, ctx: ToolContext) -> str:
    """Have an effect that must not be repeated."""
    note("TEST_EFFECTS", {"key": ctx.idempotency_key, "what": what})
    await asyncio.sleep(0.05)
    return "done"


async def rest(seconds: float) -> str:
    """Wait without a slot."""
    raise Park(timedelta(seconds=seconds))


async def kill_my_node(after: float) -> str:
    """End the process that runs this, as a segmentation fault would."""
    await asyncio.sleep(after)
    os.kill(os.getpid(), signal.SIGKILL)
    return "unreachable"


# -- what a node does otherwise ----------------------------------------------------------------


def send_twice(share: float) -> None:
    """Let a share of this process's scripts be sent twice; the second answer counts.

    Not the sweep: its second answer is always that somebody has just looked.
    """
    once = Link.script

    async def script(self: Link, script: Script, prefix: str, args: Iterable[Any]) -> Reply:
        given = list(args)
        if script.name != "sweep" and random.random() < share:
            await once(self, script, prefix, given)
        return await once(self, script, prefix, given)

    setattr(Link, "script", script)  # noqa: B010 - a method is replaced, which mypy forbids


def _prepare() -> None:
    mutant = os.environ.get("TEST_MUTANT")
    if mutant:
        witness.install(lambda script, text: mutants.change(mutant, script, text))
    else:
        witness.install()
    if share := float(os.environ.get("TEST_TWICE", "0")):
        send_twice(share)


def _make() -> Colony:
    model = ChaosModel(
        [_step(n) for n in range(LONGEST_SCRIPT)], input_tokens=TOKENS[0], output_tokens=TOKENS[1]
    )
    made = Colony(
        "chaos",
        goal="Survive.",
        agent=AgentSpec(model=model, instructions="Follow the script.", spawns=True),
        config=ColonyConfig(result_retention_max=1_000_000, max_history=1_000_000),
        version=os.environ.get("TEST_VERSION", "1"),
    )
    made.tool(read_only=True)(echo)
    made.tool(idempotent=True)(put)
    made.tool(effect)
    made.tool(idempotent=True)(rest)
    made.tool(idempotent=True)(kill_my_node)
    return made


if "TEST_CALLS" in os.environ:  # a node: not a process that only looks at the definition
    _prepare()
colony = _make()
