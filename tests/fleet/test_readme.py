"""The README is true: what it shows runs and prints what it says, what it names exists.

Python blocks begin with the name of their file; a ``text`` block right below one is what it prints.
``console`` blocks are run command by command; ``sh`` blocks start nodes, or name targets of make; the
``json`` block is pushed to the intake.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis

from colony import Colony, ColonyConfig, EventType, OnComplete, Settings, Subscription
from colony.cli import app
from colony.definition import AgentSpec, load_colony
from colony.errors import PipelineRejected
from colony.flower.settings import FlowerSettings
from colony.gateway.settings import GatewaySettings
from colony.runtime import ColonyRuntime
from colony.settings import SECRETS_DIRECTORIES
from colony.testing import Fleet, redis_for_tests, wait_until

pytestmark = pytest.mark.fleet

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
PRODUCERS = ("producer.py", "blocking.py", "any_celery.py", "batches.py")
MODULES = (
    *("stock.py", "local_model.py", "hooks.py", "desk.py", "watch.py", "clerk.py"),
    *("scripted.py", "test_stock.py"),
)
END_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block, and the ``text`` block that follows it at once."""

    language: str
    text: str
    output: str | None = None

    @property
    def name(self) -> str:
        """The file that a Python block names in its first line."""
        return self.text.partition("\n")[0].removeprefix("# ")


def blocks(language: str) -> list[Block]:
    """The README's blocks of one language."""
    found = list(BLOCK.finditer(README))
    made = []
    for block, after in zip(found, [*found[1:], None], strict=True):
        follows = after is not None and not README[block.end() : after.start()].strip()
        output = after[2] if after is not None and follows and after[1] == "text" else None
        made.append(Block(block[1], block[2], output))
    return [block for block in made if block.language == language]


def python(name: str) -> Block:
    """The Python block of a file."""
    [found] = [block for block in blocks("python") if block.name == name]
    return found


def environment(**more: str) -> dict[str, str]:
    """A user's shell without settings of ours and without a model's key."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("COLONY_") and not name.endswith("_API_KEY")
    }
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **more}


def command(line: str) -> tuple[list[str], dict[str, str]]:
    """A line of a shell as arguments and variables; console scripts are those of this Python."""
    words, variables = shlex.split(line, comments=True), {}
    while "=" in words[0]:
        name, _, variables[name] = words.pop(0).partition("=")
    module = {"colony": "colony.cli", "celery": "celery"}[words[0]]
    return [sys.executable, "-m", module, *words[1:]], variables


def run(arguments: list[str], cwd: Path, env: Mapping[str, str]) -> str:
    """Stdout of a command that must succeed."""
    done = subprocess.run(
        arguments, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{arguments} said:\n{done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def started(
    line: str, cwd: Path, env: Mapping[str, str], log: Path, ended_by: signal.Signals
) -> Iterator[None]:
    """A command of the README as a process that goes on, until it is told to end and does."""
    arguments, variables = command(line)
    with log.open("wb") as out:
        process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env={**env, **variables},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield
        process.send_signal(ended_by)
        assert process.wait(END_SECONDS) == 0, f"{line} ended with:\n{log.read_text()}"
    finally:
        with suppress(ProcessLookupError):  # nobody of its session is left: as it should be
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_every_block_is_executed_by_a_test() -> None:
    """No block is only there to be read: each has a language and a place in these tests."""
    languages = {match[1] for match in BLOCK.finditer(README)}
    assert languages == {"python", "text", "console", "sh", "json"}
    assert {block.name for block in blocks("python")} == {*PRODUCERS, *MODULES}
    shown = sum(block.output is not None for block in blocks("python"))
    assert len(blocks("text")) == 1 + shown, "one picture; all others are the output of a program"


async def test_the_producers_print_what_is_shown(tmp_path: Path) -> None:
    """`colony up`, then each producer in another process: its output is the README's, to the letter."""
    line = "colony up colony.examples.survey:colony"
    assert f"`{line}`" in README
    log = tmp_path / "up.log"

    def url() -> str | None:
        found = re.search(r"--redis-url (redis://\S+)", log.read_text())
        return found and found[1]

    env = environment()
    if os.environ.get("COLONY_TEST_REDIS_URL"):
        with redis_for_tests() as named:
            env["COLONY_REDIS_URL"] = named
    with started(line, ROOT, env, log, signal.SIGINT):
        env["COLONY_REDIS_URL"] = await wait_until(url, 30, what="colony up prints its URL")
        for name in PRODUCERS:
            block, program = python(name), tmp_path / name
            program.write_text(block.text, encoding="utf-8")
            assert run([sys.executable, str(program)], ROOT, env) == block.output
        await push_the_raw_message(env["COLONY_REDIS_URL"])


async def push_the_raw_message(url: str) -> None:
    """The one JSON block, pushed to the letter, is a worker with its task and data."""
    [message] = blocks("json")
    with Redis.from_url(url) as redis:
        redis.lpush("colony.survey.intake", message.text)
    async with ColonyRuntime("survey", redis_url=url) as runtime:

        async def accepted() -> bool:
            [newest] = await runtime.list_workers(limit=1)
            return (newest.task, newest.data) == ("Survey", {"root": "/tmp", "path": "a.txt"})

        await wait_until(accepted, 10, what="the raw message is accepted")


async def test_the_definition_runs_under_every_command_shown(tmp_path: Path) -> None:
    """stock.py is served by each of the three ways to start nodes, side by side."""
    (tmp_path / "stock.py").write_text(python("stock.py").text)
    lines = [x for block in blocks("sh") for x in block.text.splitlines() if "stock" in x]
    assert len(lines) == 3
    with redis_for_tests() as url:
        env = environment(COLONY_REDIS_URL=url, STOCK_MODEL="test")
        with ExitStack() as nodes:
            for number, line in enumerate(lines):
                log = tmp_path / f"{number}.log"
                nodes.enter_context(started(line, tmp_path, env, log, signal.SIGTERM))
            async with ColonyRuntime("stock", redis_url=url) as runtime:

                async def all_alive() -> bool:
                    return sum(node.lease_seconds > 0 for node in await runtime.list_nodes()) == 4

                await wait_until(all_alive, 60, what="1 + 2 + 1 nodes are alive")


async def test_the_console_commands_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the test model every command shown ends with 0, and each tool is called and returns."""
    (tmp_path / "stock.py").write_text(python("stock.py").text)
    monkeypatch.setenv("STOCK_MODEL", "test")
    [console] = blocks("console")
    async with Fleet("stock:colony", cwd=tmp_path) as fleet:
        env = environment(COLONY_REDIS_URL=fleet.redis_url, STOCK_MODEL="test")
        for line in console.text.splitlines():
            assert run(command(line.removeprefix("$ "))[0], tmp_path, env).strip(), line
        completed = fleet.runtime.events(
            types=[EventType.TOOL_CALL_COMPLETED], after="0", follow=False
        )
        calls = {event.data["tool"]: event.data["ok"] async for event in completed}
    assert calls == {"in_stock": True, "order": True}


def test_the_tests_of_an_agent_pass(tmp_path: Path) -> None:
    """The section on testing, in a folder of its own, is a test that passes."""
    for name in ("stock.py", "scripted.py", "test_stock.py"):
        (tmp_path / name).write_text(python(name).text)
    said = run([sys.executable, "-m", "pytest", "-q", "test_stock.py"], tmp_path, environment())
    assert "1 passed" in said


def test_the_local_model_is_a_valid_agent() -> None:
    """The example of an OpenAI-compatible server is what AgentSpec takes."""
    names: dict[str, object] = {}
    exec(compile(python("local_model.py").text, "local_model.py", "exec"), names)
    assert isinstance(names["local"], AgentSpec)
    assert names["local"].base_url == "http://gpu-1:8000/v1"


def test_the_webhooks_are_valid() -> None:
    """Its URLs and references are accepted, and the secret is named, not given."""
    names: dict[str, object] = {}
    exec(compile(python("hooks.py").text, "hooks.py", "exec"), names)
    done, failures = names["done"], names["failures"]
    assert isinstance(done, OnComplete)
    assert isinstance(failures, Subscription)
    assert done.secret == failures.secret == ("env:HOOK_SECRET",)


def test_the_agents_that_spawn_are_a_valid_definition() -> None:
    """The desk is what nodes load."""
    names: dict[str, object] = {}
    exec(compile(python("desk.py").text, "desk.py", "exec"), names)
    assert isinstance(names["colony"], Colony)
    names["colony"].check()
    assert names["colony"].agents["lead"].spawns


async def test_the_clerk_checks_and_signs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stages refuse what they say, and its tool gets the secret."""
    code = python("clerk.py").text.replace('"openai:gpt-5-mini"', "MODEL", 1)
    model = """from colony.testing_model import Call, ScriptedModel, report
MODEL = ScriptedModel([Call("sign_in", {"account": "work-github"}), report("success", "In.")])
"""
    (tmp_path / "clerk.py").write_text(model + code, encoding="utf-8")
    monkeypatch.setenv("GITHUB_TOKEN", "x" * 17)
    async with Fleet("clerk:colony", cwd=tmp_path) as fleet:
        with pytest.raises(
            PipelineRejected, match="'input_validation': data: 'repo' is a required"
        ):
            await fleet.runtime.spawn("Sign in.")
        [worker] = await fleet.runtime.spawn(
            "Sign in.", data={"repo": "a", "accounts": "work-github"}
        )
        await fleet.runtime.wait_for_worker(worker, timeout=20)
        said = str(await fleet.runtime.get_conversation(worker))
    assert "signed in with 17 characters" in said


def test_the_table_of_commands_is_complete() -> None:
    """Every command has its place in the table, and nothing else has."""
    table = README.partition("## The command line")[2].partition("\n## ")[0]
    shown = re.findall(r"`colony (\w+)", table)
    names = [command.name for command in app.registered_commands]
    names += [group.name for group in app.registered_groups]
    assert sorted(shown) == sorted(map(str, names))


def test_every_target_of_make_exists() -> None:
    """The two commands of the first screen, and others that are named."""
    for target in set(re.findall(r"(?:^|`)make (\w+)", README, re.M)):
        run(["make", "--dry-run", target], ROOT, dict(os.environ))


def test_every_setting_exists() -> None:
    """COLONY_… names in the text are fields of Settings or ColonyConfig."""
    fields = {
        f"COLONY_{name.upper()}" for name in (*Settings.model_fields, *ColonyConfig.model_fields)
    }
    fields |= {f"COLONY_GATEWAY_{name.upper()}" for name in GatewaySettings.model_fields}
    fields |= {f"COLONY_FLOWER_{name.upper()}" for name in FlowerSettings.model_fields}
    fields |= set(SECRETS_DIRECTORIES)
    named = set(re.findall(r"COLONY_[A-Z_]*[A-Z]", README))
    assert named
    assert named <= fields


def test_every_link_and_every_extra_exists() -> None:
    """Links to files and folders, extras of pip, and the README as the package's description."""
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {e for found in re.findall(r"`colony\[(.*?)\]`", README) for e in found.split(",")}
    assert extras
    assert extras <= set(project["optional-dependencies"])
    assert project["readme"] == "README.md"


def test_the_figures_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default that is changed is changed in the README, too."""
    for name in [name for name in os.environ if name.startswith("COLONY_")]:
        monkeypatch.delenv(name)
    config, settings = ColonyConfig(), Settings()
    monkeypatch.chdir(ROOT)
    tool = load_colony("tests.definitions:basic").tools["echo"]
    said = {
        "(the last 10,000)": config.max_history == 10_000,
        "within five minutes": config.idempotency_ttl.total_seconds() == 300,
        "`max_resurrections` (3)": config.max_resurrections == 3,
        "up to 1,000 workers": settings.concurrency == 1_000,
        "limits one call (60 s)": tool.timeout.total_seconds() == 60,
    }
    assert [words for words, true in said.items() if words not in README or not true] == []
