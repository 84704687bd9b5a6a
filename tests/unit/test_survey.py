"""The survey example: what is chosen, what is refused, and that the page is true of the files."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from pydantic import JsonValue
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters

from colony.conversation import Part, Step, dump_parts, load_parts
from colony.definition import load_colony
from colony.errors import ColonyError, ConfigurationError
from colony.examples.survey import colony, page, reading
from colony.examples.survey.definition import choose_model
from colony.examples.survey.entries import MAX_BYTES, FileEntry, OpenPoint, entry_of, fit
from colony.examples.survey.files import (
    GROUP,
    MAX_FILE_BYTES,
    MAX_FILES,
    Chosen,
    Refused,
    choose_files,
    load,
)
from colony.examples.survey.lead import lead_step
from colony.examples.survey.offline import LABEL, Heard, OfflineModel, listen, reader_step
from colony.examples.survey.outline import outline_of
from colony.examples.survey.run import survey
from colony.models import Event, EventType, Report, ReportStatus, WorkerRecord, WorkerState
from colony.testing import Fleet
from colony.tools import ToolContext
from workers.agent.loop import run_agent
from workers.agent.outcome import Outcome, Reported
from workers.agent.prompts import task_prompt
from workers.agent.run import AgentRun
from workers.agent.spawning import MAX_TASKS
from workers.agent.threads import ToolThreads

if TYPE_CHECKING:
    from colony.runtime import ColonyRuntime

APP = '''"""Sorts parcels by weight. Heavy parcels go to the dock.

The dock opens at eight.
"""


class Sorter:
    """Holds the scales."""

    def weigh(self, parcel: str) -> int:
        # TODO: ask the scales
        return len(parcel)


def _dock() -> str:
    return "# TODO: this is a string, not a comment"  # FIXME(ann): rename the dock
'''
README = """# Parcels

Parcels are sorted by weight here, so that nobody lifts what a crane should lift.

## Use

Run it. The crane needs a [licence](https://example.org/licence).

- [ ] buy a crane
- [x] buy scales

```
TODO: this stands in a code block
```
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small project, with all that must not be surveyed beside it."""
    root = tmp_path / "parcels"
    for name, text in {
        "README.md": README,
        "src/app.py": APP,
        "src/empty.py": "",
        "src/crane.lua": "-- Lifts the parcel.\nlocal function lift() end\n-- TODO brake first\n",
        "deploy/compose.yml": "services:\n  crane: {}\nvolumes: {}\n",
        ".env": "SECRET=1\n",
        ".git/config": "[core]\n",
        "node_modules/x/index.js": "x()\n",
        "env/pyvenv.cfg": "home = /usr\n",
        "env/lib/thing.py": "x = 1\n",
        "__pycache__/app.py": "x = 1\n",
        "uv.lock": "locked\n",
        "package-lock.json": "{}\n",
        "photo.png": "not a photo\n",
        "huge.txt": "word " * (MAX_FILE_BYTES // 5 + 1),
        "earlier.md": page.FIRST_LINE + "\n# Survey\n",
    }.items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    (root / "binary.txt").write_bytes(b"a\0b")
    (tmp_path / "outside.txt").write_text("a secret\n")
    (root / "link.txt").symlink_to(tmp_path / "outside.txt")
    (root / "notes.txt").symlink_to(root / ".env")
    return root


CHOSEN = ("README.md", "deploy/compose.yml", "src/app.py", "src/crane.lua")


# -- files ----------------------------------------------------------------------------------


def test_only_documents_and_source_files_are_chosen(folder: Path) -> None:
    """Hidden, installed, built, locked, binary, huge, empty, linked and surveyed ones are not."""
    assert choose_files(folder).paths == CHOSEN


def test_the_deepest_files_are_left_out_first(folder: Path) -> None:
    """A limited survey keeps the top of the folder and says how many there were beyond."""
    chosen = choose_files(folder, max_files=2)
    assert chosen.paths == ("README.md", "deploy/compose.yml")
    assert chosen.left_out >= 2


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../outside.txt", "below the surveyed folder"),
        ("src/../../outside.txt", "below the surveyed folder"),
        ("/etc/passwd", "below the surveyed folder"),
        ("", "below the surveyed folder"),
        ("link.txt", "leads out"),
        ("notes.txt", "hidden"),
        (".env", "hidden"),
        (".git/config", "hidden"),
        ("node_modules/x/index.js", "installed or built"),
        ("photo.png", "neither a document nor a source file"),
        ("binary.txt", "binary"),
        ("huge.txt", "at most 524288"),
        ("gone.py", "no such file"),
        ("src", "neither a document"),
        ("src/a\nb.py", "no such file"),
    ],
)
def test_tools_refuse_what_is_not_surveyed(folder: Path, path: str, reason: str) -> None:
    """Every tool opens files through `load`, which refuses with the reason."""
    with pytest.raises(Refused, match=reason):
        load(folder, path)
    for tool in ("read_file", "count_figures", "find_todos", "frequent_terms"):
        with pytest.raises(Refused, match=reason):
            call(tool, {"path": path}, {"root": str(folder)})


def test_a_pipe_is_refused_and_does_not_block(folder: Path) -> None:
    """What is no regular file is not waited for."""
    os.mkfifo(folder / "pipe.txt")
    with pytest.raises(Refused, match="regular file"):
        load(folder, "pipe.txt")


def test_bytes_that_are_not_utf8_are_shown_as_such(folder: Path) -> None:
    """A wrong byte costs a character, not the file."""
    (folder / "latin.txt").write_bytes("Größe".encode("latin-1"))
    assert load(folder, "latin.txt") == "Gr\ufffd\ufffde"


@pytest.mark.parametrize("root", [None, "parcels", "/nowhere/at/all", 3])
def test_a_root_must_be_an_absolute_folder(root: JsonValue) -> None:
    """Data without a usable root are refused, whatever the path is."""
    with pytest.raises(Refused, match="absolute path"):
        call("read_file", {"path": "a.py"}, {"root": root})


def test_a_folder_without_documents_is_refused(tmp_path: Path) -> None:
    """There is nothing to spawn for it."""
    with pytest.raises(ConfigurationError, match="nothing to survey"):
        choose_files(tmp_path)
    with pytest.raises(ConfigurationError, match="no such folder"):
        choose_files(tmp_path / "gone")


# -- reading --------------------------------------------------------------------------------


def test_todos_are_told_with_their_true_lines(folder: Path) -> None:
    """Comments and unticked boxes count; strings and code blocks do not."""
    found = {path: reading.todos(folder, path)["todos"] for path in CHOSEN}
    assert found["src/app.py"] == [
        {"line": 11, "text": "TODO: ask the scales"},
        {"line": 16, "text": "FIXME(ann): rename the dock"},
    ]
    assert found["README.md"] == [{"line": 9, "text": "buy a crane"}]
    assert found["src/crane.lua"] == [{"line": 3, "text": "TODO brake first"}]


def test_figures_are_those_of_the_file(folder: Path) -> None:
    """Lines and words as `wc` counts them, definitions as Python's own parser sees them."""
    figures = reading.figures(folder, "src/app.py")
    assert (figures["lines"], figures["words"]) == (APP.count("\n"), len(APP.split()))
    assert (figures["functions"], figures["classes"]) == (2, 1)
    assert figures["names"] == ["Sorter"]
    assert figures["opening"].startswith("Sorts parcels")
    assert reading.figures(folder, "src/crane.lua")["functions"] == 1
    assert reading.figures(folder, "README.md")["headings"] == ["Parcels", "Use"]


def test_pages_join_to_the_whole_file(folder: Path) -> None:
    """Reading on from `end` + 1 until there is no more gives every line once."""
    lines = [f"line {n} of many, many words" for n in range(1, 2001)]
    (folder / "long.txt").write_text("\n".join(lines))
    read: list[str] = []
    start = 1
    while True:
        got = reading.read_page(folder, "long.txt", start, 400)
        assert len(got["text"].encode()) <= reading.PAGE_BYTES
        read += got["text"].split("\n")
        start = got["end"] + 1
        if not got["more"]:
            break
    assert read == lines


def test_terms_count_the_words_of_identifiers(folder: Path) -> None:
    """`parcelWeight` and `parcel_weight` are parcels and weights."""
    (folder / "terms.py").write_text("parcel_weight = parcelWeight + PARCEL\n")
    found = reading.terms(folder, "terms.py")["terms"]
    assert found == [{"term": "parcel", "count": 3}, {"term": "weight", "count": 2}]


@pytest.mark.parametrize(
    "name", ["x.py", "x.md", "x.js", "x.lua", "x.rs", "x.html", "x.go", "x.tex"]
)
@pytest.mark.parametrize(
    "piece",
    [
        "\n",
        " ",
        "# ",
        "[",
        "<h1",
        "\\section{",
        "function ",
        "const x = (",
        "func (",
        "pub(",
        "`",
        "(",
    ],
)
def test_hostile_text_takes_no_longer(tmp_path: Path, name: str, piece: str) -> None:
    """No pattern takes more than linear time: one file must not stop a node."""
    text = "function" + piece * (200_000 // len(piece))
    (tmp_path / name).write_text(text)
    began = time.process_time()
    outline_of(name, text)
    reading.todos(tmp_path, name)
    data: dict[str, JsonValue] = {"root": str(tmp_path), "path": name}
    if name in ("x.md", "x.js"):
        drive_sync(OfflineModel(reader_step), data)
    assert time.process_time() - began < 5


class Loop:
    """Garbage that only the collector finds; whose end lets another thread run."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        time.sleep(0)


def test_files_are_outlined_in_many_threads_at_once() -> None:
    """As on a node: a collection in the middle of a parse, and another thread that parses meanwhile."""

    def outlined(_number: int) -> int | None:
        loops = [Loop() for _ in range(30)]
        loops.clear()
        return outline_of("x.py", source).classes

    source = "class Crane:\n    height = [1, 2, 3]\n" * 50
    threshold = gc.get_threshold()
    gc.set_threshold(50)
    try:
        with ThreadPoolExecutor(8) as threads:
            assert set(threads.map(outlined, range(300))) == {50}
    finally:
        gc.set_threshold(*threshold)


# -- the offline model ----------------------------------------------------------------------

RunWorkers = Callable[[list[dict[str, Any]]], Awaitable[dict[str, Any]]]


def call(tool: str, arguments: Mapping[str, Any], data: Mapping[str, JsonValue]) -> Any:
    """Call a tool as a node does: arguments checked against its schema first."""
    made = colony.tools[tool]
    checked = made.arguments.model_validate(arguments)
    values: dict[str, Any] = {name: getattr(checked, name) for name in type(checked).model_fields}
    if made.context_parameter:
        values[made.context_parameter] = context(data)
    return made.function(**values)


def context(data: Mapping[str, JsonValue]) -> ToolContext:
    """What a tool is told of its call."""

    async def silent(message: str, told: Mapping[str, JsonValue]) -> None:
        """Nobody listens."""

    return ToolContext(
        worker_id="w",
        colony_id="survey",
        agent="reader",
        task="Survey",
        data=data,
        tool_call_id="c",
        idempotency_key="w:c",
        deadline=None,
        remaining=None,
        _progress=silent,
    )


def drive_sync(model: Model, data: Mapping[str, JsonValue]) -> dict[str, Any]:
    """Run a model to its report without a loop: `OfflineModel.request` never waits."""
    coroutine = drive(model, data)
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return cast(dict[str, Any], ended.value[0])
    raise AssertionError("the offline model waited for something")


async def drive(
    model: Model, data: Mapping[str, JsonValue], run_workers: RunWorkers | None = None
) -> tuple[dict[str, Any], list[ModelMessage]]:
    """Feed a model what its tools really return until it reports: (report, messages).

    `run_workers` stands in for run_parallel_workers.
    """
    messages: list[ModelMessage] = [ModelRequest([UserPromptPart(task_prompt("Do it", data))])]
    for _ in range(20):
        answer = await model.request(messages, None, ModelRequestParameters())
        messages.append(answer)
        calls = [part for part in answer.parts if isinstance(part, ToolCallPart)]
        assert calls, "it ended without a report"
        if calls[0].tool_name == "report_to_parent":
            return calls[0].args_as_dict(), messages
        if calls[0].tool_name == "run_parallel_workers":
            assert run_workers is not None, "this model has no workers"
            [part] = calls
            reports = await run_workers(part.args_as_dict()["tasks"])
            messages.append(
                ModelRequest([ToolReturnPart(part.tool_name, reports, part.tool_call_id)])
            )
        else:
            messages.append(ModelRequest([returned(part, data) for part in calls]))
    raise AssertionError("it never reported")


def returned(part: ToolCallPart, data: Mapping[str, JsonValue]) -> ToolReturnPart:
    """The result of one call, as the loop writes it down."""
    try:
        content = call(part.tool_name, part.args_as_dict(), data)
    except ColonyError as error:
        return ToolReturnPart(part.tool_name, str(error), part.tool_call_id, outcome="failed")
    return ToolReturnPart(part.tool_name, content, part.tool_call_id)


async def test_the_reader_looks_from_four_sides_then_reports(folder: Path) -> None:
    """All four read-only tools in one answer, then a report that is true of the file."""
    data: dict[str, JsonValue] = {"root": str(folder), "path": "src/app.py"}
    report, messages = await drive(OfflineModel(reader_step), data)
    first = cast(ModelResponse, messages[1])
    assert [part.tool_name for part in first.tool_calls] == [
        "read_file", "count_figures", "find_todos", "frequent_terms",
    ]  # fmt: skip
    assert report["status"] == "success"
    told = report["data"]
    assert told["lines"] == APP.count("\n")
    assert told["model"] == LABEL
    assert told["paragraph"].startswith("Sorts parcels by weight. Heavy parcels go to the dock.")
    assert "`Sorter`" in told["paragraph"]


async def test_the_same_messages_get_the_same_answer(folder: Path) -> None:
    """It keeps nothing: another instance goes on from any point, with the same call ids."""
    data: dict[str, JsonValue] = {"root": str(folder), "path": "README.md"}
    _, messages = await drive(OfflineModel(reader_step), data)
    for position, message in enumerate(messages):
        if isinstance(message, ModelResponse):
            again = await OfflineModel(reader_step).request(
                messages[:position], None, ModelRequestParameters()
            )
            assert again.parts == message.parts


async def test_a_long_document_is_read_on(folder: Path) -> None:
    """It asks for further pages, with another id each, and stops at some point."""
    paragraph = "Parcels are many and every one of them is heavy.\n\n"
    (folder / "long.md").write_text("# Long\n\n" + paragraph * 3000)
    report, messages = await drive(
        OfflineModel(reader_step), {"root": str(folder), "path": "long.md"}
    )
    ids = [c.tool_call_id for m in messages if isinstance(m, ModelResponse) for c in m.tool_calls]
    assert len(ids) == len(set(ids))
    assert [i.partition("-")[0] for i in ids].count("read_file") == 4
    assert report["data"]["lines"] == 6002


async def test_a_file_that_is_refused_is_reported_failed(folder: Path) -> None:
    """The refusal's words reach the report; nothing is invented."""
    report, _ = await drive(OfflineModel(reader_step), {"root": str(folder), "path": ".env"})
    assert report["status"] == "failed"
    assert "hidden" in report["summary"]


async def test_after_its_report_it_has_nothing_to_add(folder: Path) -> None:
    """Asked again after a report, it ends with text instead of reporting for ever."""
    data: dict[str, JsonValue] = {"root": str(folder), "path": "README.md"}
    _, messages = await drive(OfflineModel(reader_step), data)
    reported = cast(ModelResponse, messages[-1]).tool_calls[0]
    messages.append(ModelRequest([ToolReturnPart("report_to_parent", "ok", reported.tool_call_id)]))
    answer = await OfflineModel(reader_step).request(messages, None, ModelRequestParameters())
    assert isinstance(answer.parts[0], TextPart)


def test_input_data_survive_the_prompt() -> None:
    """What the producer gave is what the model reads, odd names and all."""
    data: dict[str, JsonValue] = {
        "root": "/x: y",
        "path": "[1]: {a}.md",
        "entries": [{"path": "a"}],
    }
    prompt = ModelRequest([UserPromptPart(task_prompt("Survey: it", data))])
    assert listen([prompt]).data == data


def test_the_model_follows_the_environment() -> None:
    """A named model first, then the provider with a key, else offline; `offline` can be forced."""
    assert choose_model(reader_step, {"COLONY_MODEL": "test"}) == "test"
    assert choose_model(reader_step, {"OPENAI_API_KEY": "k"}) == "openai:gpt-5-mini"
    assert str(choose_model(reader_step, {"ANTHROPIC_API_KEY": "k"})).startswith("anthropic:")
    forced = choose_model(reader_step, {"COLONY_MODEL": "offline", "OPENAI_API_KEY": "k"})
    assert isinstance(forced, OfflineModel)
    assert forced.model_name == LABEL
    assert isinstance(choose_model(reader_step, {}), OfflineModel)


# -- the lead -------------------------------------------------------------------------------

LEAD_DATA: dict[str, Any] = {
    "root": "/x/parcels",
    "output": "/x/out.md",
    "max_files": "200",
    "seconds": "60",
}


def ended(paths: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """What run_parallel_workers returned for these files."""
    reports = [
        {"worker_id": p, "status": "success", "summary": p, "data": {"lines": 7}} for p in paths
    ]
    return "run_parallel_workers", {"worker_count": len(paths), "reports": reports}


def test_the_lead_hands_out_at_most_64_files_a_call_and_all_reports_to_one_editor() -> None:
    """130 files are read in calls of 64, 64 and 2; then one editor gets all in order of their path."""
    paths = [f"f{n:03}.py" for n in range(130)]
    told: list[tuple[str, Any]] = [("list_files", {"paths": paths, "left_out": 5})]
    sizes = []
    for start in range(0, 130, 64):
        [(tool, arguments)] = lead_step(Heard(LEAD_DATA, told, []))
        assert tool == "run_parallel_workers"
        assert {task["agent"] for task in arguments["tasks"]} == {"reader"}
        assert [t["data"]["path"] for t in arguments["tasks"]] == paths[start : start + 64]
        sizes.append(len(arguments["tasks"]))
        told.append(ended(paths[start : start + 64]))
    assert sizes == [64, 64, 2]
    [(_, arguments)] = lead_step(Heard(LEAD_DATA, told, []))
    [task] = arguments["tasks"]
    assert task["agent"] == "editor"
    assert task["data"]["left_out"] == 5
    assert [(e["path"], e["lines"]) for e in task["data"]["entries"]] == [(p, 7) for p in paths]
    [(tool, arguments)] = lead_step(Heard(LEAD_DATA, [*told, ended(["the editor's words"])], []))
    assert (tool, arguments["status"]) == ("report_to_parent", "success")
    assert arguments["summary"] == "the editor's words"


def test_the_lead_says_why_there_is_no_page() -> None:
    """A refused call, or reports that were cut on the way, end the survey with the reason."""
    listing = ("list_files", {"paths": ["a.py"], "left_out": 0})
    refused = [("run_parallel_workers", "the tree has 502 workers already")]
    for heard, words in (
        (Heard(LEAD_DATA, [listing], refused), "502 workers"),
        (Heard(LEAD_DATA, [listing, ("run_parallel_workers", '{"wor [cut')], []), "longer than"),
    ):
        [(tool, arguments)] = lead_step(heard)
        assert (tool, arguments["status"]) == ("report_to_parent", "failed")
        assert words in arguments["summary"]


def test_the_reports_of_a_whole_group_fit_into_one_result() -> None:
    """The colony's limits agree with each other and with the most that one survey covers."""
    config = colony.config
    assert GROUP * config.max_report_bytes < config.max_tool_result_bytes
    assert config.max_descendants == MAX_FILES + 1
    assert GROUP <= MAX_TASKS


# -- entries and page -----------------------------------------------------------------------


def test_entries_are_shortened_to_fit() -> None:
    """Many long entries lose words, never figures; too many are refused with what to do."""
    todos = tuple(OpenPoint(line=n, text="x" * 150) for n in range(50))
    entry = FileEntry(path="a.py", paragraph="word " * 500, todos=todos, todo_count=50, lines=7)
    short = fit([entry] * 200)
    assert len(str(short)) < 1.1 * MAX_BYTES
    assert {(e["lines"], e["todo_count"]) for e in short} == {(7, 50)}
    with pytest.raises(ConfigurationError, match="max_files"):
        fit([entry] * 5000)


def test_code_spans_keep_what_looks_like_html(folder: Path) -> None:
    """Nothing is lost from a docstring that names `X_<FIELD>`; outside, HTML is taken out."""
    (folder / "tags.py").write_text('"""Set `X_<FIELD>` to <b>change</b> it, please."""\n')
    told = drive_sync(OfflineModel(reader_step), {"root": str(folder), "path": "tags.py"})
    assert told["data"]["paragraph"] == "Set `X_<FIELD>` to change it, please."


def test_a_report_of_another_shape_keeps_its_words() -> None:
    """An LLM that fills data freely costs the figures of that file, not the survey."""
    report = Report(
        worker_id="w", status=ReportStatus.SUCCESS, summary="It sorts.", data={"todos": "none"}
    )
    entry = entry_of("src/app.py", report)
    assert entry.paragraph == "It sorts."
    assert entry.language == "Python"
    assert "another shape" in (entry.problem or "")


def test_only_a_survey_is_overwritten(folder: Path, tmp_path: Path) -> None:
    """A file of yours, a link, a folder, another kind of file: refused, untouched."""
    with pytest.raises(ConfigurationError, match="not an earlier survey"):
        page.save(folder / "README.md", "x")
    assert (folder / "README.md").read_text() == README
    with pytest.raises(ConfigurationError, match=r"\*\.md"):
        page.check_output(tmp_path / "survey.txt")
    with pytest.raises(ConfigurationError, match="does not exist"):
        page.check_output(tmp_path / "gone" / "survey.md")
    (tmp_path / "link.md").symlink_to(tmp_path / "outside.txt")
    with pytest.raises(ConfigurationError, match="regular file"):
        page.check_output(tmp_path / "link.md")
    page.save(folder / "earlier.md", page.FIRST_LINE + "\nagain\n")
    assert (folder / "earlier.md").read_text().endswith("again\n")
    assert not list(folder.glob("*.part"))


# -- the whole ------------------------------------------------------------------------------


@dataclass
class LocalRuntime:
    """The runtime's verbs as far as a survey needs them: workers run when they are waited for.

    `deaf`: no event of it is ever heard.
    """

    broken: frozenset[str] = frozenset()
    deaf: bool = False
    records: dict[str, WorkerRecord] = field(default_factory=dict)
    handler: Callable[[Event], Awaitable[None]] | None = None

    async def subscribe(
        self, handler: Callable[[Event], Awaitable[None]], *, types: Sequence[str]
    ) -> LocalRuntime:
        assert types == [EventType.SUBAGENT_REPORT]
        self.handler = None if self.deaf else handler
        return self

    async def close(self) -> None:
        self.handler = None

    async def spawn(
        self,
        task: str,
        *,
        data: dict[str, JsonValue],
        agent: str,
        correlation_id: str,
        deadline: timedelta,
    ) -> list[str]:
        return [self._add(task, data, agent, correlation_id)]

    async def wait_for_worker_reports(self, ids: Sequence[str], timeout: float) -> list[Report]:
        return [await self._run(worker_id) for worker_id in ids]

    async def get_worker(self, worker_id: str) -> WorkerRecord | None:
        return self.records.get(worker_id)

    async def get_children(self, worker_id: str) -> list[str]:
        return [w for w, record in self.records.items() if record.parent_id == worker_id]

    def _add(
        self,
        task: str,
        data: dict[str, JsonValue],
        agent: str,
        correlation_id: str | None,
        parent: str | None = None,
    ) -> str:
        worker_id, now = str(len(self.records)), datetime.now(UTC)
        self.records[worker_id] = WorkerRecord(
            worker_id=worker_id,
            colony_id=colony.name,
            state=WorkerState.PENDING,
            agent=agent,
            task=task,
            data=data,
            correlation_id=correlation_id,
            stream_id="s",
            parent_id=parent,
            root_id=parent or worker_id,
            version=colony.version,
            created_at=now,
            since=now,
        )
        return worker_id

    async def _run(self, worker_id: str) -> Report:
        record = self.records[worker_id]

        async def run_workers(tasks: list[dict[str, Any]]) -> dict[str, Any]:
            ids = [
                self._add(t["task"], t["data"], t["agent"], record.correlation_id, worker_id)
                for t in tasks
            ]
            reports = [await self._run(child) for child in ids]
            dumped = [r.model_dump(mode="json", exclude_none=True) for r in reports]
            return {"worker_count": len(ids), "reports": dumped}

        report = await self._report(record, run_workers)
        self.records[worker_id] = record.model_copy(update={"report": report})
        if self.handler is not None:
            await self.handler(
                Event(
                    type=EventType.SUBAGENT_REPORT,
                    colony_id=colony.name,
                    worker_id=worker_id,
                    correlation_id=record.correlation_id,
                    at=record.created_at,
                )
            )
        return report

    async def _report(self, record: WorkerRecord, run_workers: RunWorkers) -> Report:
        worker_id = record.worker_id
        if record.data.get("path") in self.broken:
            return Report(worker_id=worker_id, status=ReportStatus.FAILED, summary="", error="lost")
        model = colony.agents[record.agent].model
        assert isinstance(model, OfflineModel)
        said, _ = await drive(model, record.data, run_workers)
        return Report(worker_id=worker_id, **said)


@pytest.fixture
def offline() -> None:
    if not isinstance(colony.agents["reader"].model, OfflineModel):
        pytest.skip("a model key is set: this process has the definition with an LLM")


def section(markdown: str, title: str) -> str:
    """The text below one of the page's headings."""
    return markdown.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("deaf", [False, True])
async def test_what_the_page_says_is_true_of_the_files(folder: Path, deaf: bool) -> None:
    """Line counts, word counts, TODO lines and totals are those of the real files, and each report is
    told once, also where no event was heard."""
    runtime = LocalRuntime(deaf=deaf)
    seen: list[tuple[int, int]] = []
    result = await survey(
        cast("ColonyRuntime", runtime),
        folder,
        folder / "survey.md",
        on_progress=lambda done, total, report: seen.append((done, total)),
    )
    assert result.written
    assert result.files == CHOSEN
    assert [r.data["path"] for r in result.reports] == list(CHOSEN)
    assert seen == [(n, 4) for n in range(1, 5)]
    written = (folder / "survey.md").read_text()
    assert written.startswith(page.FIRST_LINE)
    assert LABEL in written
    figures = section(written, "Figures")
    total = 0
    for path in CHOSEN:
        text = (folder / path).read_text()
        row = next(line for line in figures.split("\n") if f"`{path}`" in line)
        assert [cell.strip() for cell in row.split("|")][3:5] == [
            f"{text.count(chr(10)):,}", f"{len(text.split()):,}",
        ]  # fmt: skip
        total += text.count("\n")
    assert f"together {total} lines" in section(written, "Overview")
    todos = re.findall(r"`([^`]+):(\d+)`", section(written, "Open TODOs"))
    assert len(todos) == 4
    for path, line in todos:
        assert re.search(
            r"TODO|FIXME|\[ \]", (folder / path).read_text().split("\n")[int(line) - 1]
        )


@pytest.mark.usefixtures("offline")
async def test_a_second_survey_replaces_the_first_and_is_the_same(folder: Path) -> None:
    """A survey does not survey itself; nothing changed, nothing differs."""
    output = folder / "survey.md"
    await survey(cast("ColonyRuntime", LocalRuntime()), folder, output)
    first = output.read_text()
    await survey(cast("ColonyRuntime", LocalRuntime()), folder, output)
    assert output.read_text() == first


@pytest.mark.usefixtures("offline")
async def test_a_file_that_failed_is_named_and_the_rest_is_written(folder: Path) -> None:
    """One lost reader costs one paragraph; the page says which and why."""
    runtime = LocalRuntime(broken=frozenset({"src/app.py"}))
    result = await survey(cast("ColonyRuntime", runtime), folder, folder / "survey.md")
    assert [path for path, _ in result.failed] == ["src/app.py"]
    written = (folder / "survey.md").read_text()
    assert "`src/app.py`: failed: lost" in section(written, "Not surveyed")
    assert "src/app.py" not in section(written, "Figures")


@pytest.mark.usefixtures("offline")
async def test_a_lead_that_fails_leaves_no_page_and_a_reason_for_each_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not read is reported failed with the lead's words, and nothing counts as written."""
    monkeypatch.setattr("colony.examples.survey.definition.choose_files", _refuse)
    result = await survey(
        cast("ColonyRuntime", LocalRuntime()), folder, folder / "survey.md", max_files=3
    )
    assert not result.written
    assert [path for path, _ in result.failed] == list(result.files)
    assert "the disk is gone" in (result.reports[0].error or "")
    assert not (folder / "survey.md").exists()


def _refuse(root: Path, *, max_files: int) -> Chosen:
    raise Refused("the disk is gone")


@pytest.mark.usefixtures("offline")
async def test_one_lead_spawns_the_whole_survey_on_a_single_slot(folder: Path) -> None:
    """On a real node with one slot the lead waits without it: readers and editor are its children."""
    heard: list[str] = []
    async with Fleet("colony.examples.survey:colony", concurrency=1) as fleet:
        result = await survey(
            fleet.runtime,
            folder,
            folder / "survey.md",
            on_progress=lambda done, total, report: heard.append(f"{done}/{total} {report.status}"),
            timeout=30,
        )
        workers = await fleet.runtime.list_workers()
    [lead] = [w for w in workers if w.parent_id is None]
    children = [w.agent for w in workers if w.parent_id == lead.worker_id]
    assert lead.agent == "lead"
    assert sorted(children) == ["editor", *["reader"] * len(CHOSEN)]
    assert heard == [f"{n}/4 success" for n in range(1, 5)]
    assert result.written
    assert result.reading_seconds > 0
    assert LABEL in (folder / "survey.md").read_text()


async def test_an_output_of_yours_is_refused_before_anything_is_spawned(folder: Path) -> None:
    """Nobody pays for a survey that cannot be written."""
    runtime = LocalRuntime()
    with pytest.raises(ConfigurationError, match="not an earlier survey"):
        await survey(cast("ColonyRuntime", runtime), folder, folder / "README.md")
    assert not runtime.records


@dataclass
class MemoryJournal:
    """Keeps what a run writes."""

    parts: list[Part] = field(default_factory=list)

    async def append(self, step: Step) -> None:
        self.parts += load_parts(dump_parts(step.parts))

    async def tell(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Nobody listens."""


async def run_reader(
    folder: Path, path: str, parts: Sequence[Part] = ()
) -> tuple[Outcome, list[Part]]:
    """Run the offline reader through the loop of the nodes, from where `parts` end."""
    now = datetime.now(UTC)
    worker = WorkerRecord(
        worker_id="w",
        colony_id=colony.name,
        state=WorkerState.RUNNING,
        agent="reader",
        task=f"Survey the file {path}",
        data={"root": str(folder), "path": path},
        stream_id="s",
        root_id="w",
        version=colony.version,
        created_at=now,
        since=now,
    )
    threads, journal = ToolThreads(4), MemoryJournal(list(parts))
    run = AgentRun(
        colony_id=colony.name,
        goal=colony.goal,
        worker=worker,
        spec=colony.agents["reader"],
        tools=colony.tools_of(colony.agents["reader"]),
        model=OfflineModel(reader_step),
        parts=parts,
        journal=journal,
        threads=threads,
        remaining=lambda: None,
        max_tool_result_bytes=colony.config.max_tool_result_bytes,
        max_report_bytes=colony.config.max_report_bytes,
    )
    try:
        return await run_agent(run), journal.parts
    finally:
        threads.close()


async def test_the_reader_goes_through_the_loop_of_the_nodes(folder: Path) -> None:
    """Asked, answered, journaled and reported like any model."""
    outcome, parts = await run_reader(folder, "src/app.py")
    assert isinstance(outcome, Reported)
    assert outcome.status is ReportStatus.SUCCESS
    assert outcome.data["lines"] == APP.count("\n")
    assert [part["kind"] for part in parts].count("result") >= 4


async def test_the_reader_resumes_from_every_checkpoint(folder: Path) -> None:
    """Cut anywhere and continued, it ends with the same report."""
    whole, parts = await run_reader(folder, "README.md")
    for end in range(len(parts) + 1):
        resumed, _ = await run_reader(folder, "README.md", parts[:end])
        assert resumed == whole


def test_the_definition_loads_by_its_name() -> None:
    """Nodes find it, and its agents name tools that exist."""
    assert load_colony("colony.examples.survey:colony") is colony
    assert set(colony.agents) == {"lead", "reader", "editor"}


def test_a_producer_needs_no_model_layer() -> None:
    """Importing the producer's side does not import pydantic-ai."""
    code = (
        "import sys, colony.examples.survey.run\n"
        "sys.exit(any(m.startswith('pydantic_ai') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
