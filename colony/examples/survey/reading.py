"""What the readers' tools return: plain JSON objects, true of the file at that moment."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from colony.examples.survey.files import DOCUMENTS, language_of, load
from colony.examples.survey.outline import comment_mark, outline_of, unclosed, unfenced
from colony.examples.survey.words import clip, count_words, most_frequent

PAGE_LINES = 400
PAGE_BYTES = 24_000
"""A page stays below what a colony allows a tool to return, also when JSON escapes it."""
MAX_TODOS = 50
MAX_TERMS = 40
MAX_NAMES = 40

_MARKER = r"(?:TODO|FIXME|XXX|HACK)\b"
_IN_COMMENT = re.compile(rf"^\s*({_MARKER}.*)$")
_IN_DOCUMENT = re.compile(
    r"^\s*(?:[-*+]\s+|\d+[.)]\s+)?"
    r"(?:\[ \]\s+(?P<box>\S.*)|(?:\*\*|__)?(?P<marked>(?:TODO|FIXME)\b.*:.*))$"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_TRAILING = re.compile(r"(?:#|//|/\*|--|<!--|%|;)\s*(" + _MARKER + r".*)$")


class Page(TypedDict):
    """Lines `start` to `end` of `total_lines`, the first being 1. `more`: there are lines after."""

    path: str
    start: int
    end: int
    total_lines: int
    more: bool
    text: str


class Figures(TypedDict):
    """Counts and outline of one file; a count is None where nobody knows how to count it."""

    path: str
    language: str
    lines: int
    words: int
    functions: int | None
    classes: int | None
    names: list[str]
    headings: list[str]
    opening: str


class Todo(TypedDict):
    """One open point: the line it stands in, the first being 1, and what it says."""

    line: int
    text: str


class Todos(TypedDict):
    """The open points of a file. `count` is of all, `todos` are the first of them."""

    path: str
    count: int
    todos: list[Todo]


class Term(TypedDict):
    """How often a term is used."""

    term: str
    count: int


class Terms(TypedDict):
    """The most frequent terms of a file, the most frequent first."""

    path: str
    terms: list[Term]


def read_page(root: Path, path: str, start: int, lines: int) -> Page:
    """At most `lines` lines from line `start` on, and at most about 24 KB of them."""
    everything = lines_of(load(root, path))
    first = max(1, start)
    taken: list[str] = []
    room = PAGE_BYTES
    for line in everything[first - 1 : first - 1 + max(1, min(lines, PAGE_LINES))]:
        shown = _CONTROL.sub("\ufffd", clip(line, 2000))
        room -= len(shown.encode()) + 1
        if taken and room < 0:
            break
        taken.append(shown)
    end = first + len(taken) - 1
    total = len(everything)
    return Page(
        path=path, start=first, end=end, total_lines=total, more=end < total, text="\n".join(taken)
    )


def figures(root: Path, path: str) -> Figures:
    """Lines, words, and what the file defines."""
    text = load(root, path)
    outline = outline_of(path, text)
    return Figures(
        path=path,
        language=outline.language,
        lines=len(lines_of(text)),
        words=count_words(text),
        functions=outline.functions,
        classes=outline.classes,
        names=[clip(name, 80) for name in outline.names[:MAX_NAMES]],
        headings=[clip(heading, 120) for heading in outline.headings[:MAX_NAMES]],
        opening=clip(outline.opening, 4000),
    )


def todos(root: Path, path: str) -> Todos:
    """The open points: TODO, FIXME, XXX, HACK that begin a comment; unticked boxes in documents."""
    points = _todos(load(root, path), language_of(path) or "")
    found = [Todo(line=line, text=clip(text, 160)) for line, text in points]
    return Todos(path=path, count=len(found), todos=found[:MAX_TODOS])


def terms(root: Path, path: str, limit: int = 20) -> Terms:
    """The most frequent words that carry meaning; identifiers are counted word by word."""
    found = most_frequent(load(root, path), max(1, min(limit, MAX_TERMS)))
    return Terms(path=path, terms=[Term(term=term, count=count) for term, count in found])


def lines_of(text: str) -> list[str]:
    """The lines of a text as editors count them: a last line may lack its line end."""
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _todos(text: str, language: str) -> Iterator[tuple[int, str]]:
    if language in DOCUMENTS:
        yield from _document_todos(unfenced(text, language))
        return
    comments = list(_python_comments(text)) if language == "Python" else None
    for number, comment in _comments(text, language) if comments is None else comments:
        if found := _IN_COMMENT.match(comment):
            yield number, unclosed(found.group(1))


def _document_todos(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines_of(text), 1):
        if found := _IN_DOCUMENT.match(line):
            yield number, (found["box"] or found["marked"]).strip().strip("*_ ")


def _comments(text: str, language: str) -> Iterator[tuple[int, str]]:
    mark = comment_mark(language)
    for number, line in enumerate(lines_of(text), 1):
        if whole := mark.match(line):
            yield number, line[whole.end() :]
        elif trailing := _TRAILING.search(line):
            yield number, trailing.group(1)


def _python_comments(text: str) -> Iterator[tuple[int, str]]:
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string.lstrip("#")
    except (tokenize.TokenError, SyntaxError):
        return  # not Python to the end: the comments up to there were comments
