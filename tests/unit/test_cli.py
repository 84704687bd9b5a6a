"""The command line: what a user may get wrong, what machines read, and what a real Redis shows.

Everything here runs for real (the runner calls the app; where it matters, a process is started);
what needs a running node is in tests/fleet.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from colony.cli.doctor import diagnose
from colony.cli.durations import When, parse_duration, parse_when, short_duration
from colony.cli.findings import Level
from colony.cli.output import plain
from colony.cli.transcript import SHORT, transcript
from colony.cli.views import why_it_waits
from colony.conversation import Part
from colony.models import NodeInfo, WorkerRecord, WorkerState
from colony.redis_server import EmbeddedRedis
from colony.settings import Settings
from tests.unit.cli_kit import answer, call, registered_colony

NOBODY_LISTENS = "redis://127.0.0.1:1"

COMMANDS = (
    *("demo", "up", "worker", "spawn", "batch", "wait", "list", "show", "tree"),
    *("events", "stop", "retry", "stats", "pause", "resume", "doctor"),
)


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own settings change no test."""
    for name in [name for name in os.environ if name.startswith("COLONY_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    """A real Redis that no colony has ever used."""
    with EmbeddedRedis() as server:
        yield server.url


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python -m colony.cli …`` as a user's shell runs it."""
    return subprocess.run(
        [sys.executable, "-m", "colony.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=os.environ | environment,
    )


# -- help and usage ---------------------------------------------------------------------------


def test_help_groups_the_commands() -> None:
    code, out, _ = call("--help")
    assert code == 0
    assert all(panel in out for panel in ("Run", "Produce", "Operate"))
    assert all(f" {command} " in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    code, out, _ = call(command, "--help")
    assert code == 0
    assert "--redis-url" in out


def test_version() -> None:
    code, out, _ = call("--version")
    assert code == 0
    assert out.startswith("colony ")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nonsense"], "nonsense"),
        (["spawn"], "TASK"),
        (["spawn", "x", "--count", "0"], "--count"),
        (["spawn", "x", "--data", "{"], "--data"),
        (["spawn", "x", "--data", "[1]"], "object"),
        (["spawn", "x", "--data", '{"a": NaN}'], "NaN"),
        (["spawn", "x", "--data", "@/no/such/file"], "/no/such/file"),
        (["spawn", "-", "--data", "@-"], "stdin"),
        (["spawn", "x", "--deadline", "soon"], "soon"),
        (["spawn", "x", "--not-before", "2030-01-01T00:00:00"], "zone"),
        (["wait"], "ID"),
        (["wait", "w", "--timeout", "-5s"], "-5s"),
        (["list", "--status", "LOST"], "LOST"),
        (["events", "--type", "nonsense"], "nonsense"),
        (["events", "--after", "yesterday"], "yesterday"),
        (["stop"], "--all"),
        (["stop", "w", "--all"], "--all"),
        (["worker", "m:c", "--pool", "gevent"], "gevent"),
        (["worker", "m:c", "--processes", "0"], "--processes"),
        (["demo", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_wrong_usage_is_2_and_names_what_is_wrong(arguments: list[str], named: str) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert named in err


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["spawn", "x", "-c", "survey"],
        ["wait", "w"],
        ["events", "--follow"],
        ["stop", "w"],
    ],
)
def test_an_unreachable_redis_is_said_within_two_seconds(arguments: list[str]) -> None:
    started = time.monotonic()
    code, out, err = call(*arguments, "--redis-url", NOBODY_LISTENS)
    assert time.monotonic() - started < 2
    assert (code, out) == (1, "")
    assert "127.0.0.1:1" in err
    assert "COLONY_REDIS_URL" in err


def test_the_process_says_the_same_without_a_traceback() -> None:
    done = process("stats", COLONY_REDIS_URL=NOBODY_LISTENS)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1", "redis://127.0.0.1:port", "127.0.0.1:6379"])
def test_a_url_that_is_none_names_its_option(url: str) -> None:
    code, _, err = call("list", "--redis-url", url)
    assert code == 1
    assert "--redis-url" in err


def test_a_password_is_not_shown() -> None:
    _, out, err = call("list", "--redis-url", "redis://me:hunter2@127.0.0.1:1")
    assert "hunter2" not in out + err


def test_a_setting_that_contradicts_another_is_one_line() -> None:
    done = process("list", COLONY_LEASE="1")
    assert done.returncode == 1
    assert "COLONY_LEASE" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("path", ["nowhere:colony", "no-colon", "json:dumps"])
def test_up_refuses_a_definition_that_does_not_load_before_it_starts_anything(path: str) -> None:
    code, _, err = call("up", path)
    assert code == 1
    assert path.partition(":")[0] in err


# -- on a Redis without a colony --------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["list"], ["stats"], ["spawn", "x"], ["pause"]])
def test_no_colony_says_how_to_start_one(redis_url: str, arguments: list[str]) -> None:
    code, _, err = call(*arguments, "--redis-url", redis_url)
    assert code == 1
    assert "colony worker" in err


def test_an_unknown_colony_is_an_error_not_an_empty_list(redis_url: str) -> None:
    code, out, err = call("list", "--colony", "nobody", "--redis-url", redis_url)
    assert (code, out) == (1, "")
    assert "no colony" in err


def test_doctor_finds_that_no_colony_is_registered(redis_url: str) -> None:
    code, out, _ = call("doctor", "--json", "--redis-url", redis_url)
    found = json.loads(out)
    levels = {finding["check"]: finding["level"] for finding in found["findings"]}
    assert (code, found["ok"]) == (1, False)
    assert levels["Redis"] == "ok"
    assert levels["Redis persistence"] == "ok"
    assert levels["Redis memory"] == "ok"
    assert levels["colony"] == "problem"


def test_doctor_says_what_to_do_about_an_unreachable_redis() -> None:
    code, out, _ = call("doctor", "--redis-url", NOBODY_LISTENS)
    assert code == 1
    assert "problem" in out
    assert "→ start it" in out


def test_doctor_reports_a_definition_that_does_not_load(redis_url: str) -> None:
    code, out, _ = call("doctor", "nowhere:colony", "--redis-url", redis_url)
    assert code == 1
    assert "definition" in out


async def test_doctor_finds_an_unsafe_configuration() -> None:
    with EmbeddedRedis(append_only=False) as server:
        found = [f async for f in diagnose(None, None, Settings(redis_url=server.url))]
    persistence = next(f for f in found if f.check == "Redis persistence")
    assert persistence.level is Level.PROBLEM
    assert "appendonly yes" in (persistence.remedy or "")


# -- a colony without a node ------------------------------------------------------------------


@pytest.fixture(scope="module")
def idle_colony() -> Iterator[str]:
    """The URL of a Redis where the colony "idle" is registered and nobody runs its workers."""
    with registered_colony("idle") as url:
        yield url


@pytest.fixture
def waiting_worker(idle_colony: str) -> str:
    """The id of a worker that was queued for a node to come."""
    spawned = answer(idle_colony, "spawn", "Read [a].md", "--queue", "--data", '{"n": [1, {}]}')
    assert spawned["colony"] == "idle"
    [worker] = spawned["workers"]
    return str(worker)


def test_spawn_without_a_node_names_both_ways_out(idle_colony: str) -> None:
    code, out, err = call("spawn", "x", "--redis-url", idle_colony)
    assert (code, out) == (1, "")
    assert "colony worker" in err
    assert "--queue" in err


def test_spawn_prints_bare_ids_and_reads_stdin(idle_colony: str) -> None:
    arguments = ("--queue", "--count", "3", "--redis-url", idle_colony)
    code, out, _ = call("spawn", "-", *arguments, stdin="the task\n")
    ids = out.split()
    assert (code, len(set(ids))) == (0, 3)
    assert answer(idle_colony, "show", ids[0])["worker"]["task"] == "the task\n"


def test_a_blank_task_and_an_unknown_agent_are_refused(idle_colony: str) -> None:
    for arguments, named in ((["spawn", "  "], "blank"), (["spawn", "x", "--agent", "y"], "'y'")):
        code, _, err = call(*arguments, "--queue", "--redis-url", idle_colony)
        assert code == 1
        assert named in err


@pytest.mark.parametrize("name", ["agent:nosuch", "agent:"])
def test_a_cap_of_nobody_is_refused(idle_colony: str, name: str) -> None:
    """It would cap nothing: the agents that there are are named."""
    code, out, err = call("limit", name, "1", "--redis-url", idle_colony)
    assert (code, out) == (1, "")
    assert "no agent is named" in err
    assert "this colony has: agent" in err


def test_list_and_show_tell_the_same_worker(idle_colony: str, waiting_worker: str) -> None:
    newest = answer(idle_colony, "list", "--status", "pending", "--limit", "1")[0]
    shown = answer(idle_colony, "show", waiting_worker)
    assert newest == shown["worker"]
    assert shown["worker"]["data"] == {"n": [1, {}]}
    assert "none is alive" in shown["waiting"]
    assert shown["conversation"] == []


def test_people_see_the_task_as_it_was_written(idle_colony: str, waiting_worker: str) -> None:
    for arguments in (["list"], ["show", waiting_worker]):
        code, out, _ = call(*arguments, "--redis-url", idle_colony)
        assert code == 0
        assert waiting_worker in out
        assert "Read [a].md" in out


def test_stop_wait_and_retry(idle_colony: str, waiting_worker: str) -> None:
    told = answer(idle_colony, "stop", waiting_worker, "--reason", "not needed")
    assert told["workers"] == [{"worker_id": waiting_worker, "stopped": True, "descendants": 0}]
    again = answer(idle_colony, "stop", waiting_worker)
    assert again["workers"][0]["stopped"] is False
    harvest = answer(idle_colony, "wait", waiting_worker, "no-such", code=1)
    stopped, unknown = harvest["reports"]
    assert (stopped["status"], stopped["summary"]) == ("stopped", "not needed")
    assert (unknown["status"], unknown["error"]) == ("failed", "no_such_worker")
    new = answer(idle_colony, "retry", waiting_worker)["worker"]
    assert answer(idle_colony, "show", new)["worker"]["task"] == "Read [a].md"


def test_retry_needs_an_end(idle_colony: str, waiting_worker: str) -> None:
    code, _, err = call("retry", waiting_worker, "--redis-url", idle_colony)
    assert code == 1
    assert "PENDING" in err


def test_wait_leaves_stragglers_alone(idle_colony: str, waiting_worker: str) -> None:
    arguments = ["wait", waiting_worker, "--timeout", "100ms", "--json"]
    code, out, err = call(*arguments, "--redis-url", idle_colony)
    assert (code, json.loads(out)) == (
        1,
        {"reports": [], "running": [waiting_worker], "batches": []},
    )
    assert waiting_worker in err
    assert answer(idle_colony, "show", waiting_worker)["worker"]["state"] == "PENDING"


def test_a_stop_with_an_unknown_id_stops_nobody(idle_colony: str, waiting_worker: str) -> None:
    """Whatever the order: the error names all that are unknown, and nobody was stopped unsaid."""
    for ids in ([waiting_worker, "typo", "b-typo"], ["typo", "b-typo", waiting_worker]):
        code, out, err = call("stop", *ids, "--redis-url", idle_colony)
        assert (code, out) == (1, "")
        assert "'typo', 'b-typo'" in " ".join(err.split())
        assert "Nothing was stopped" in " ".join(err.split())
        assert answer(idle_colony, "show", waiting_worker)["worker"]["state"] == "PENDING"


@pytest.mark.parametrize("command", ["show", "stop", "retry"])
def test_an_unknown_worker_is_an_error(idle_colony: str, command: str) -> None:
    code, out, err = call(command, "no-such", "--redis-url", idle_colony)
    assert (code, out) == (1, "")
    assert "no-such" in err


def test_events_are_json_lines_and_can_be_resumed(idle_colony: str, waiting_worker: str) -> None:
    def lines(*arguments: str) -> list[dict[str, Any]]:
        code, out, _ = call("events", "--json", "--redis-url", idle_colony, *arguments)
        assert code == 0
        return [json.loads(line) for line in out.splitlines()]

    everything = lines()
    [accepted] = lines("--worker", waiting_worker)
    assert accepted["type"] == "execution_accepted"
    assert lines("--after", everything[0]["id"]) == everything[1:]
    assert lines("--type", "node_lost") == []


def test_pause_refuses_and_resume_accepts(idle_colony: str) -> None:
    assert answer(idle_colony, "pause") == {"colony": "idle", "intake_paused": True}
    try:
        code, _, err = call("spawn", "x", "--queue", "--redis-url", idle_colony)
        assert code == 1
        assert "paused" in err
        assert answer(idle_colony, "stats")["intake_paused"] is True
    finally:
        assert answer(idle_colony, "resume")["intake_paused"] is False
    assert len(answer(idle_colony, "spawn", "x", "--queue")["workers"]) == 1


def test_doctor_misses_the_node_and_counts_the_queue(idle_colony: str) -> None:
    findings = answer(idle_colony, "doctor", code=1)["findings"]
    levels = {finding["check"]: finding["level"] for finding in findings}
    assert levels["nodes"] == "problem"
    assert levels["queue"] == "ok"
    assert levels["messages set aside"] == "ok"


def test_stop_all(idle_colony: str, waiting_worker: str) -> None:
    assert answer(idle_colony, "stop", "--all")["stopped"] >= 1
    states = answer(idle_colony, "stats")["states"]
    assert states["PENDING"] == 0
    assert answer(idle_colony, "show", waiting_worker)["worker"]["state"] == "STOPPED"


# -- durations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("0", 0),
        ("1.5h", 5400),
        ("10m", 600),
        ("2h30m", 9000),
        ("250ms", 0.25),
        ("1d", 86_400),
        ("PT10M", 600),
        ("P1DT2H", 93_600),
        (" 5M ", 300),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", " ", "-5", "5 m", "m", "P", "PT", "30m2h", "1e3", "١", "9" * 30 + "d"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.text())
def test_a_duration_is_read_or_refused_never_anything_else(text: str) -> None:
    try:
        assert parse_duration(text) >= timedelta(0)
    except ValueError:
        pass  # refused


def test_a_moment_is_a_duration_or_a_time_with_its_zone() -> None:
    assert parse_when("10m") == When(timedelta(minutes=10))
    assert parse_when("2030-01-31T12:00:00+02:00") == When(datetime(2030, 1, 31, 10, tzinfo=UTC))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (59.7, "1 m"), (200, "3 m 20 s"), (7500, "2 h 5 m"), (-1, "0.0 s")],
)
def test_short_durations(seconds: float, text: str) -> None:
    assert short_duration(seconds) == text


# -- what is shown ----------------------------------------------------------------------------


def test_foreign_text_cannot_steer_the_terminal() -> None:
    shown = plain("\x1b[2Jgone \x9b31m [bold]kept[/bold]\nnext").plain
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert "[bold]kept[/bold]\nnext" in shown


def _shown(parts: list[Part], *, full: bool = False) -> str:
    screen = Console(file=io.StringIO(), width=1000)
    for block in transcript(parts, full=full):
        screen.print(block)
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


CONVERSATION: list[Part] = [
    {
        "kind": "request",
        "message": {"parts": [{"part_kind": "user-prompt", "content": "Read a.md"}]},
    },
    {
        "kind": "answer",
        "message": {
            "parts": [
                {"part_kind": "text", "content": "I will."},
                {"part_kind": "tool-call", "tool_name": "read", "args": {"path": "a.md"}},
            ]
        },
    },
    {
        "kind": "result",
        "tool_call_id": "1",
        "part": {"part_kind": "tool-return", "tool_name": "read", "content": "x" * (SHORT + 50)},
    },
]


def test_a_conversation_can_be_read() -> None:
    lines = _shown(CONVERSATION).splitlines()
    assert lines[0].split() == ["task", "Read", "a.md"]
    assert lines[1].split() == ["model", "I", "will."]
    assert 'read({"path": "a.md"})' in lines[2]
    assert "56 more characters" in lines[3]
    assert "x" * (SHORT + 50) in _shown(CONVERSATION, full=True)


def _record(**changes: Any) -> WorkerRecord:
    now = datetime.now(UTC)
    fields: dict[str, Any] = {
        "worker_id": "w",
        "colony_id": "c",
        "state": WorkerState.PENDING,
        "agent": "agent",
        "task": "t",
        "stream_id": "s",
        "root_id": "w",
        "version": "1",
        "created_at": now,
        "since": now,
    }
    return WorkerRecord.model_validate({**fields, **changes})


def _node(version: str, lease_seconds: float = 3) -> NodeInfo:
    return NodeInfo(
        node="n",
        host="h",
        pid=2,
        pool="asyncio",
        concurrency=1,
        version=version,
        started_at=datetime.now(UTC),
        lease_seconds=lease_seconds,
    )


def test_show_says_why_a_worker_waits() -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    assert "none is alive" in (why_it_waits(_record(), [_node("1", -1)]) or "")
    assert "version 1" in (why_it_waits(_record(), [_node("2")]) or "")
    assert "not to be started before" in (why_it_waits(_record(not_before=later), []) or "")
    assert "a free slot" in (why_it_waits(_record(), [_node("1")]) or "")
    parked = _record(state=WorkerState.PARKED, waits_for="time")
    assert "for time" in (why_it_waits(parked, []) or "")
    assert why_it_waits(_record(state=WorkerState.RUNNING), []) is None


def test_the_module_runs_from_elsewhere_than_the_source_tree(tmp_path: Path) -> None:
    """A namesake in the user's folder is not taken for ours."""
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__main__.py").write_text("raise SystemExit('a namesake ran')")
    home = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-P", "-m", "colony.cli", "worker", "nowhere:colony"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=os.environ | {"PYTHONPATH": home, "COLONY_REDIS_URL": NOBODY_LISTENS},
    )
    assert done.returncode != 0
    assert "a namesake ran" not in done.stderr
