"""survey.md: the page as text, and the file it is written to.

The words are the model's; every number, TODO and term on the page comes from the readers' reports.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from colony.errors import ConfigurationError
from colony.examples.survey.entries import EditorData, FileEntry
from colony.examples.survey.files import SURVEY_MARK

FIRST_LINE = f"{SURVEY_MARK}: each survey rewrites this file; remove this line to keep it -->"
MAX_TODOS = 200
MAX_TERMS = 30


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over some files. None: it could be counted in none of them."""

    files: int
    lines: int | None
    words: int | None
    functions: int | None
    classes: int | None
    todos: int

    @classmethod
    def of(cls, entries: Sequence[FileEntry]) -> Totals:
        """The sums over `entries`."""
        return cls(
            files=len(entries),
            lines=_sum(e.lines for e in entries),
            words=_sum(e.words for e in entries),
            functions=_sum(e.functions for e in entries),
            classes=_sum(e.classes for e in entries),
            todos=sum(e.todo_count for e in entries),
        )


def read_entries(data: EditorData) -> list[FileEntry]:
    """The files that were read, in order of their path: all that the sums are over."""
    return [e for e in data.entries if e.problem is None]


def by_language(entries: Sequence[FileEntry]) -> list[tuple[str, Totals]]:
    """The sums per language, the one with the most lines first."""
    names = sorted({e.language for e in entries})
    sums = [(name, Totals.of([e for e in entries if e.language == name])) for name in names]
    return sorted(sums, key=lambda item: -(item[1].lines or 0))


def largest(entries: Sequence[FileEntry], limit: int) -> list[FileEntry]:
    """The `limit` files with the most lines."""
    return sorted(entries, key=lambda e: (-(e.lines or 0), e.path))[:limit]


def common_terms(entries: Sequence[FileEntry], limit: int) -> list[tuple[str, int, int]]:
    """(term, uses, files) of the terms that the files themselves told as their most frequent."""
    uses: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for entry in entries:
        for used in entry.terms:
            uses[used.term] += used.count
            files[used.term] += 1
    found = [(term, count, files[term]) for term, count in uses.items()]
    return sorted(found, key=lambda t: (-t[1], t[0]))[:limit]


def render(
    data: EditorData, *, overview: str, model: str, paragraphs: Mapping[str, str] | None = None
) -> str:
    """The page. `paragraphs`, by path, take the place of the readers' own."""
    links = _Links(Path(data.root), Path(data.output).parent)
    entries = read_entries(data)
    sections = [
        (FIRST_LINE, f"# Survey of {_text(PurePosixPath(data.root).name or data.root)}"),
        (f"*Each file was read and reported on by a worker of its own. Model: {_text(model)}.*",),
        ("## Overview", overview.strip(), *_language_table(entries)),
        ("## Files", *_file_paragraphs(data.entries, paragraphs or {}, links)),
        ("## Open TODOs", *_todo_list(entries, links)),
        ("## Most used terms", *_term_table(entries)),
        ("## Figures", *_figures_table(entries, links)),
        tuple(_not_surveyed(data)),
    ]
    return "\n\n".join(block for section in sections for block in section if block) + "\n"


def check_output(output: Path) -> None:
    """Refuse a path that a survey must not write to: nothing but an earlier survey is replaced.

    Raises `ConfigurationError` that says what is in the way.
    """
    if output.suffix.lower() != ".md":
        raise ConfigurationError(f"expected a Markdown file (*.md) as output, got {str(output)!r}")
    if not output.parent.is_dir():
        raise ConfigurationError(
            f"output {str(output)!r}: its folder does not exist; create it first"
        )
    if output.is_symlink() or (output.exists() and not output.is_file()):
        raise ConfigurationError(f"output {str(output)!r} is not a regular file; name another one")
    if output.is_file() and not _is_survey(output):
        raise ConfigurationError(
            f"output {str(output)!r} exists and is not an earlier survey, so it is left alone: "
            "move it away, or name another output"
        )


def save(output: Path, markdown: str) -> None:
    """Write the page in one step; a reader sees the earlier survey or this one, never a half.

    Raises `ConfigurationError` like `check_output`, `OSError` where the disk refuses.
    """
    check_output(output)
    beside = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        beside.write_text(markdown, encoding="utf-8")
        beside.replace(output)
    finally:
        beside.unlink(missing_ok=True)


def _is_survey(output: Path) -> bool:
    with output.open("rb") as file:
        return file.read(len(SURVEY_MARK)) == SURVEY_MARK.encode()


@dataclass(frozen=True, slots=True)
class _Links:
    root: Path
    page_folder: Path

    def to(self, path: str, line: int | None = None) -> str:
        target = quote(Path(os.path.relpath(self.root / path, self.page_folder)).as_posix())
        shown = path if line is None else f"{path}:{line}"
        return f"[`{shown.replace('`', chr(39))}`]({target})"


def _language_table(entries: Sequence[FileEntry]) -> Iterator[str]:
    rows = [
        (name, *map(_number, (t.files, t.lines, t.words, t.functions, t.classes, t.todos)))
        for name, t in [*by_language(entries), ("**all**", Totals.of(entries))]
    ]
    yield _table(("", "files", "lines", "words", "functions", "classes", "TODOs"), rows)


def _file_paragraphs(
    entries: Sequence[FileEntry], paragraphs: Mapping[str, str], links: _Links
) -> Iterator[str]:
    folder: str | None = None
    for entry in sorted(entries, key=lambda e: PurePosixPath(e.path).parts[:-1]):
        paragraph = paragraphs.get(entry.path) or entry.paragraph
        if not paragraph:
            continue
        if (parent := PurePosixPath(entry.path).parent.as_posix()) != folder:
            folder = parent
            yield "### The folder itself" if parent == "." else f"### {_text(parent)}/"
        yield f"{links.to(entry.path)} *({_kind(entry)})* {_text(paragraph)}"


def _kind(entry: FileEntry) -> str:
    if entry.lines is None:
        return entry.language
    return f"{entry.language}, {_number(entry.lines)} line{'s' if entry.lines != 1 else ''}"


def _todo_list(entries: Sequence[FileEntry], links: _Links) -> Iterator[str]:
    told = [f"- {links.to(e.path, t.line)} {_text(t.text)}" for e in entries for t in e.todos]
    total = Totals.of(entries).todos
    if not total:
        yield "None: no comment begins with TODO, FIXME, XXX or HACK, and no box is unticked."
        return
    shown = told[:MAX_TODOS]
    yield "\n".join(shown)
    if total > len(shown):
        yield f"And {total - len(shown)} more that are not listed; the figures below count them."


def _term_table(entries: Sequence[FileEntry]) -> Iterator[str]:
    rows = [
        (_text(term), _number(uses), _number(files))
        for term, uses, files in common_terms(entries, MAX_TERMS)
    ]
    if rows:
        yield "A term counts in the files of which it is one of the most frequent."
        yield _table(("term", "uses", "files"), rows)


def _figures_table(entries: Sequence[FileEntry], links: _Links) -> Iterator[str]:
    rows = [
        (
            links.to(e.path), e.language,
            *map(_number, (e.lines, e.words, e.functions, e.classes, e.todo_count)),
        )
        for e in entries
    ]  # fmt: skip
    t = Totals.of(entries)
    sums = map(_number, (t.lines, t.words, t.functions, t.classes, t.todos))
    rows.append((f"**{_number(t.files)} files**", "", *sums))
    yield _table(("file", "language", "lines", "words", "functions", "classes", "TODOs"), rows, 2)


def _not_surveyed(data: EditorData) -> Iterator[str]:
    problems = [e for e in data.entries if e.problem is not None]
    if problems or data.left_out:
        yield "## Not surveyed"
    if problems:
        yield "\n".join(f"- `{e.path}`: {_text(e.problem or '')}" for e in problems)
    if data.left_out:
        yield f"{_number(data.left_out)} more files were left out: the survey was limited."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A Markdown table whose first `words` columns are text, the others numbers."""
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    lines = [head, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _text(text: str) -> str:
    """One line of text in which nothing is HTML; code spans stay as they are."""
    pieces = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(p if p.startswith("`") else p.replace("<", "&lt;") for p in pieces)
