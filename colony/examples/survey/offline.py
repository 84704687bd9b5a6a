"""The model for those without a key: rules and an extractive summary, no network, no LLM.

It is a pydantic-ai `Model`, so it goes through the loop that any model goes through, calls the same
tools, and is checkpointed, stopped and resumed like any other. It keeps nothing: what it says next
follows from the messages it is shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ModelResponsePart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.settings import ModelSettings

from colony.examples.survey.entries import EditorData
from colony.examples.survey.files import DOCUMENTS
from colony.examples.survey.page import Totals, by_language, common_terms, largest, read_entries
from colony.examples.survey.reading import PAGE_LINES, Figures, Page, Terms, Todos
from colony.examples.survey.summary import listed, summarise

LABEL = "offline model: rules and extractive summary, no network, no LLM"

MAX_PAGES = 4
"""How much of a document it reads for its summary; figures, TODOs and terms are of all of it."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the messages tell: the input data, and how each tool call ended, in order.

    `returned` and `failed` hold (tool, what it said).
    """

    data: Mapping[str, Any]
    returned: Sequence[tuple[str, Any]]
    failed: Sequence[tuple[str, str]]

    def all_of(self, tool: str) -> list[Any]:
        """What the calls of one tool returned, in order."""
        return [content for name, content in self.returned if name == tool]

    @property
    def calls(self) -> int:
        """How many calls have ended, however they did."""
        return len(self.returned) + len(self.failed)


Step = Callable[[Heard], list[tuple[str, dict[str, Any]]]]
"""From what was heard to the tools to call next, with their arguments. None: nothing to add."""


class OfflineModel(Model):
    """Says what `step` makes of the messages. The same messages always get the same answer."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self._step = step

    @property
    def model_name(self) -> str:
        """Its label, so that nobody takes it for a language model."""
        return LABEL

    @property
    def system(self) -> str:
        """There is no provider."""
        return "offline"

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """The next tool calls, or a last word. Costs no tokens."""
        heard = listen(messages)
        parts: list[ModelResponsePart] = [
            ToolCallPart(tool, arguments, tool_call_id=f"{tool}-{heard.calls + number}")
            for number, (tool, arguments) in enumerate(self._step(heard), 1)
        ]
        return ModelResponse(parts or [TextPart("There is nothing to add.")], model_name=LABEL)


def listen(messages: Iterable[ModelMessage]) -> Heard:
    """Take from the messages what the next step depends on."""
    data: Mapping[str, Any] = {}
    returned: list[tuple[str, Any]] = []
    failed: list[tuple[str, str]] = []
    requests = (m for m in messages if isinstance(m, ModelRequest))
    for part in (part for message in requests for part in message.parts):
        if isinstance(part, UserPromptPart):
            data = data or _input_data(str(part.content))
        elif isinstance(part, ToolReturnPart) and part.outcome == "success":
            returned.append((part.tool_name, _decoded(part.content)))
        elif isinstance(part, ToolReturnPart):
            failed.append((part.tool_name, str(part.content)))
    return Heard(data, returned, failed)


def reader_step(heard: Heard) -> list[tuple[str, dict[str, Any]]]:
    """Look at the file from four sides at once, read on where it is a document, report."""
    if has_reported(heard):
        return []
    if "path" not in heard.data:
        return [report_call("failed", "The task came without a path in its data.", {})]
    path = heard.data["path"]
    if heard.failed:
        tool, said = heard.failed[0]
        return [
            report_call("failed", f"{path} could not be surveyed: {tool}: {said}", {"path": path})
        ]
    if not heard.calls:
        first_page = {"path": path, "start": 1, "lines": PAGE_LINES}
        tools = ("count_figures", "find_todos", "frequent_terms")
        return [("read_file", first_page), *((tool, {"path": path}) for tool in tools)]
    pages = cast(list[Page], heard.all_of("read_file"))
    figures = cast(Figures, heard.all_of("count_figures")[0])
    if figures["language"] in DOCUMENTS and pages[-1]["more"] and len(pages) < MAX_PAGES:
        return [("read_file", {"path": path, "start": pages[-1]["end"] + 1, "lines": PAGE_LINES})]
    return [_reading(heard, figures, pages)]


def editor_step(heard: Heard) -> list[tuple[str, dict[str, Any]]]:
    """Write the overview from the reports, have the page written, report."""
    if has_reported(heard):
        return []
    if heard.failed:
        return [report_call("failed", f"The survey was not written: {heard.failed[0][1]}", {})]
    written = heard.all_of("write_survey")
    if not written:
        return [("write_survey", {"overview": overview_of(EditorData.model_validate(heard.data))})]
    return [
        report_call("success", f"Wrote {written[0]['output']}.", {**written[0], "model": LABEL})
    ]


def overview_of(data: EditorData) -> str:
    """A paragraph of what can be counted, and what the readme says of the whole."""
    entries = read_entries(data)
    total = Totals.of(entries)
    kinds = [f"{t.files} {name}" for name, t in by_language(entries)]
    said = [
        f"This folder holds {total.files} files that were surveyed ({listed(kinds, 6)}), together "
        f"{total.lines or 0:,} lines and {total.words or 0:,} words, with {total.classes or 0:,} "
        f"classes, {total.functions or 0:,} functions and {total.todos or 'no'} open TODOs."
    ]
    big = [f"`{e.path}` ({e.lines or 0:,} lines)" for e in largest(entries, 3)]
    if len(entries) > 3:
        said.append(f"The largest are {listed(big, 3)}.")
    if terms := [term for term, _, _ in common_terms(entries, 6)]:
        said.append(f"The words it uses most are {listed(terms, 6)}.")
    readme = next((e for e in entries if e.path.lower().startswith("readme")), None)
    if readme and readme.paragraph:
        said.append(f"\n\nIts `{readme.path}` begins: {readme.paragraph}")
    return " ".join(said)


def _reading(heard: Heard, figures: Figures, pages: list[Page]) -> tuple[str, dict[str, Any]]:
    todos = cast(Todos, heard.all_of("find_todos")[0])
    terms = cast(Terms, heard.all_of("frequent_terms")[0])["terms"]
    title, paragraph = summarise(figures, "\n".join(page["text"] for page in pages), terms)
    data = {
        "path": figures["path"],
        "title": title,
        "paragraph": paragraph,
        "language": figures["language"],
        "lines": figures["lines"],
        "words": figures["words"],
        "functions": figures["functions"],
        "classes": figures["classes"],
        "todo_count": todos["count"],
        "todos": todos["todos"],
        "terms": terms,
        "model": LABEL,
    }
    return report_call("success", f"{title} ({figures['lines']} lines)", data)


def report_call(status: str, summary: str, data: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The call that ends a worker."""
    return (
        "report_to_parent",
        {"status": status, "summary": summary, "data": {**data, "model": LABEL}},
    )


def has_reported(heard: Heard) -> bool:
    """Whether the report was filed: there is nothing to add."""
    return any(tool == "report_to_parent" for tool, _ in (*heard.returned, *heard.failed))


def _input_data(prompt: str) -> Mapping[str, Any]:
    """The input data as they are rendered below the task: a line `key: value` each."""
    _, _, below = prompt.partition("\n\n")
    pairs = (line.partition(": ") for line in below.split("\n"))
    return {key: _decoded(value) for key, separator, value in pairs if separator}


def _decoded(content: Any) -> Any:
    if not isinstance(content, str) or not content.startswith(("{", "[")):
        return content
    try:
        return json.loads(content)
    except ValueError:
        return content
