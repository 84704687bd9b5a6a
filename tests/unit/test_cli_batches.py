"""`colony batch`, and ids of batches for the other commands, where no node runs: what is refused, and
what the store holds. What needs running workers is in tests/fleet/test_cli_batches.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colony.cli.taskfile import tasks_by_line
from colony.errors import InvalidTask
from tests.unit.cli_kit import answer, call, registered_colony


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own settings change no test."""
    for name in [name for name in os.environ if name.startswith("COLONY_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a Redis where a colony is registered and nobody runs its workers."""
    with registered_colony("idle") as redis_url:
        yield redis_url


def batch(url: str, stdin: str, *options: str) -> dict[str, Any]:
    """What a batch from stdin is answered with."""
    made: dict[str, Any] = answer(url, "batch", "-", "--queue", *options, stdin=stdin)
    return made


def pending(url: str) -> int:
    """How many workers wait."""
    return int(answer(url, "stats")["states"]["PENDING"])


# -- the lines --------------------------------------------------------------------------------


def test_plain_lines_are_tasks_and_blank_ones_are_none() -> None:
    """A plain file's lines are the tasks' texts, under the numbers an editor shows."""
    assert tasks_by_line("\ufeffone\r\n\n  two {x}\n\n", "f") == {1: "one", 3: "two {x}"}


def test_json_lines_are_objects_or_strings() -> None:
    """A JSON file's lines are taken as JSON, also where a string holds a line separator."""
    text = '{"task": "a", "data": {"n": 1}}\n"b\u2028c"\n{"task": "d", "agent": "z"}'
    assert tasks_by_line(text, "f", agent="y") == {
        1: {"agent": "y", "task": "a", "data": {"n": 1}},
        2: {"agent": "y", "task": "b\u2028c"},
        3: {"agent": "z", "task": "d"},
    }


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"))))
def test_a_file_is_read_whole_or_refused(lines: list[str]) -> None:
    """Whatever is in a file, each line that is not blank is one task, or the file is refused."""
    refused, tasks = False, {}
    try:
        tasks = tasks_by_line("\n".join(lines), "f")
    except InvalidTask:
        refused = True
    text = "\n".join(lines).lstrip("\ufeff")
    given_lines = {n for n, line in enumerate(text.split("\n"), 1) if line.strip()}
    assert refused or set(tasks) == given_lines != set()


@pytest.mark.parametrize(
    ("lines", "number", "named"),
    [
        ('{"task": "a"}\n\n{"task": "b"', 3, "JSON"),
        ('{"task": "a"}\nplain', 2, "column 1"),
        ('plain\n{"task": "a"}', 2, "plain text"),
        ('{"task": "a"}\n[1]', 2, "list"),
        ('{"task": "a", "data": {"x": NaN}}', 1, "NaN"),
        ('{"task": "a"}\n{"tsk": "b"}', 2, "'tsk'"),
        ('{"task": "a"}\n\n{"data": {}}', 3, "task"),
        ('{"task": "a"}\n{"task": " "}', 2, "blank"),
        ('{"task": "a"}\n{"task": "\\ud800"}', 2, "task: expected Unicode text"),
        ('{"task": "a"}\n{"task": "b", "data": [1]}', 2, "data"),
        ('\n{"task": "a"}\n{"task": "b", "agent": "nobody"}', 3, "'nobody'"),
        (f"a\n{'x' * 2_000_000}", 2, "max_task_bytes"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_spawned(
    url: str, tmp_path: Path, lines: str, number: int, named: str
) -> None:
    """A file with one bad line is refused with that line's number, and no worker is accepted."""
    file = tmp_path / "tasks.jsonl"
    file.write_text(lines, encoding="utf-8")
    before = pending(url)
    code, out, err = call("batch", str(file), "--queue", "--redis-url", url)
    assert (code, out) == (1, "")
    assert f"tasks.jsonl, line {number}: " in err
    assert named in err
    assert pending(url) == before


@pytest.mark.parametrize("text", ["", "\n  \n", "\ufeff"])
def test_a_file_without_a_task_is_refused(url: str, text: str) -> None:
    """Nothing to do is a mistake, not a batch of nothing."""
    code, out, err = call("batch", "-", "--redis-url", url, stdin=text)
    assert (code, out) == (1, "")
    assert "no task" in err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["batch"], "FILE"),
        (["batch", "/no/such/file"], "/no/such/file"),
        (["batch", "-", "--policy", "most"], "most"),
        (["batch", "-", "--policy", "first_n"], "--first-n"),
        (["batch", "-", "--policy", "any", "--first-n", "2"], "--first-n"),
        (["batch", "-", "--first-n", "0"], "--first-n"),
        (["batch", "-", "--deadline", "soon"], "soon"),
        (["tree"], "ID"),
        (["stop", "--all", "--tree"], "--tree"),
    ],
)
def test_wrong_usage_is_2_and_names_what_is_wrong(arguments: list[str], named: str) -> None:
    """What cannot be meant is wrong usage, before anything is asked of Redis."""
    code, out, err = call(*arguments, stdin="a")
    assert (code, out) == (2, "")
    assert named in err


def test_more_good_reports_than_tasks_are_refused(url: str) -> None:
    """A policy that can never be met is refused when the file is known."""
    code, _, err = call("batch", "-", "--first-n", "3", "--queue", "--redis-url", url, stdin="a\nb")
    assert code == 1
    assert "1 to 2" in err


# -- what the store holds ---------------------------------------------------------------------


def test_a_batch_without_a_node_names_both_ways_out(url: str) -> None:
    """As of one task: start a node, or say --queue."""
    code, out, err = call("batch", "-", "--redis-url", url, stdin="a")
    assert (code, out) == (1, "")
    assert "colony worker" in err
    assert "--queue" in err


def test_the_batch_has_the_tasks_in_the_order_of_the_lines(url: str) -> None:
    """Task, data and agent of each line reach its worker, and the batch has its deadline and policy."""
    lines = '{"task": "a", "data": {"n": [1]}}\n\n{"task": "b", "agent": "agent"}\n"c"'
    made = batch(url, lines, "--deadline", "1h", "--policy", "any", "--correlation-id", "job 7")
    records = [answer(url, "show", worker)["worker"] for worker in made["workers"]]
    assert [(r["task"], r["data"]) for r in records] == [("a", {"n": [1]}), ("b", {}), ("c", {})]
    assert [r["batch_index"] for r in records] == [0, 1, 2]
    assert {r["correlation_id"] for r in records} == {"job 7"}
    shown = answer(url, "show", made["batch"])
    kept = shown["batch"]
    assert (kept["state"], kept["policy"], kept["size"], kept["arrived"]) == ("OPEN", "any", 3, 0)
    assert kept["deadline"] is not None
    assert [m["worker_id"] for m in shown["members"]] == made["workers"]
    assert {m["state"] for m in shown["members"]} == {"PENDING"}


def test_people_get_the_bare_id_and_see_the_members(url: str) -> None:
    """`id=$(colony batch …)` works, and `show` and `tree` name every member and its task."""
    code, out, _ = call("batch", "-", "--queue", "--redis-url", url, stdin="Read [a].md\nRead b")
    assert code == 0
    for command in ("show", "tree"):
        code, shown, _ = call(command, out.strip(), "--redis-url", url)
        assert code == 0
        assert "Read [a].md" in shown
        assert "0 of 2" in shown


def test_show_cuts_a_long_list_of_members_and_says_so(url: str) -> None:
    """A hundred members are shown, and how many are not; --full shows them."""
    made = batch(url, "\n".join("x" * 103), "--priority", "1")
    _, cut, _ = call("show", made["batch"], "--redis-url", url)
    assert [w in cut for w in made["workers"]] == [True] * 100 + [False] * 3
    assert "3 more members" in cut
    _, full, _ = call("show", made["batch"], "--full", "--redis-url", url)
    assert all(worker in full for worker in made["workers"])
    assert answer(url, "stop", made["batch"])["batches"][0]["stopped"] == 103


def test_the_same_key_gives_the_same_batch(url: str) -> None:
    """A repeated call with its key answers with the first one's batch and spawns nothing."""
    first = batch(url, "a\nb", "--idempotency-key", "k")
    before = pending(url)
    assert batch(url, "a\nb", "--idempotency-key", "k") == first
    assert pending(url) == before


def test_a_key_of_single_workers_is_no_batch(url: str) -> None:
    """It is an error that says so; no empty id is printed."""
    answer(url, "spawn", "a", "--queue", "--idempotency-key", "one")
    arguments = ("batch", "-", "--queue", "--idempotency-key", "one", "--redis-url", url)
    code, out, err = call(*arguments, stdin="a\nb")
    assert (code, out) == (1, "")
    assert "'one' was used by spawn" in err


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--deadline", "9000000d", "deadline: expected at most 3650 days"),
        ("--deadline", "9999-01-01T00:00:00Z", "deadline: expected a time between"),
        ("--soft-deadline", "9000000d", "soft_deadline: expected at most 3650 days"),
        ("--not-before", "4000d", "not_before: expected at most 3650 days"),
        ("--priority", "99999999999", "priority: expected a whole number"),
    ],
)
def test_an_option_that_nobody_can_mean(url: str, option: str, value: str, named: str) -> None:
    """It is said in one line, and nothing is spawned."""
    before = pending(url)
    code, out, err = call("batch", "-", "--queue", option, value, "--redis-url", url, stdin="a")
    assert (code, out) == (1, "")
    assert named in err
    assert len(err.strip().splitlines()) == 1
    assert pending(url) == before


def test_stop_and_wait_take_batches_and_workers(url: str) -> None:
    """A batch is stopped whole; workers and batches are waited for side by side, each in its place."""
    made, waiting = batch(url, "a\nb"), batch(url, "c")
    [single] = answer(url, "spawn", "d", "--queue")["workers"]
    told = answer(url, "stop", made["batch"], single, "--tree", "--reason", "not needed")
    assert told == {
        "workers": [{"worker_id": single, "stopped": True, "descendants": 0}],
        "batches": [{"batch_id": made["batch"], "stopped": 2}],
    }
    _, again, _ = call("stop", made["batch"], "--redis-url", url)
    assert "had ended already" in again
    ids = (single, waiting["batch"], made["workers"][0])
    harvest = answer(url, "wait", *ids, "--timeout", "100ms", code=1)
    assert [r["worker_id"] for r in harvest["reports"]] == [single, made["workers"][0]]
    assert {r["summary"] for r in harvest["reports"]} == {"not needed"}
    assert harvest["running"] == [waiting["batch"]]
    assert [b["batch_id"] for b in harvest["batches"]] == [waiting["batch"]]


def test_retry_needs_a_joined_batch(url: str) -> None:
    """While its members may still succeed, a batch is not retried."""
    made = batch(url, "a")
    code, out, err = call("retry", made["batch"], "--redis-url", url)
    assert (code, out) == (1, "")
    assert "not joined" in err


@pytest.mark.parametrize("command", ["show", "tree", "stop", "retry", "wait"])
def test_an_unknown_batch_is_an_error(url: str, command: str) -> None:
    """An id that is none is said, with the id."""
    code, out, err = call(command, "b-no-such", "--redis-url", url)
    assert (code, out) == (1, "")
    assert "'b-no-such'" in err


def test_a_tree_of_an_unknown_worker_is_an_error(url: str) -> None:
    """As `show` of it."""
    code, out, err = call("tree", "no-such", "--redis-url", url)
    assert (code, out) == (1, "")
    assert "'no-such'" in err
