"""What a file holds, told from its text: Python by its syntax tree, the rest by patterns.

The patterns see text that nobody vouches for, and a pattern that runs stops the whole node. So
none repeats what the next repetition could match too, or beyond a bound, and none crosses lines
at its beginning: each takes time in proportion to the file.
"""

from __future__ import annotations

import ast
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from colony.examples.survey.files import DOCUMENTS, language_of

_PARSER = threading.Lock()
_CURLY = re.compile(r"^\s*(?://+!?|/\*+|\*(?!/))\s?")
_HASH = re.compile(r"^\s*#+(?!!)\s?")
_MARKS = {
    **dict.fromkeys(
        ("Shell", "Make", "YAML", "TOML", "Docker", "Ruby", "R", "Perl", "Julia", "Elixir"), _HASH
    ),
    **dict.fromkeys(("Lua", "SQL", "Haskell"), re.compile(r"^\s*--+(?:\[\[)?\s?")),
    **dict.fromkeys(("Erlang", "TeX"), re.compile(r"^\s*%+\s?")),
    **dict.fromkeys(("HTML", "Vue", "Svelte", "Markdown"), re.compile(r"^\s*<!--+\s?")),
    "INI": re.compile(r"^\s*[#;]+\s?"),
    "Clojure": re.compile(r"^\s*;+\s?"),
}  # fmt: skip
_SCRIPT = (
    re.compile(
        r"\bfunction\b[ \t]{0,9}\*?[ \t]{0,9}(\w{0,99})[ \t]{0,9}\("
        r"|\b(?:const|let|var)\s+(\w+)[ \t]{0,9}=[ \t]{0,9}(?:async[ \t]{0,9})?"
        r"(?:\([^()]{0,300}\)|\w{1,99})[ \t]{0,9}(?::[^=]{1,100})?=>"
    ),
    re.compile(r"^[ \t]*(?:export\s+)?(?:default\s+)?(?:abstract\s+)?class\s+(\w+)", re.M),
)  # fmt: skip
_RUST_PUB = r"^[ \t]*(?:pub(?:\([^)]{0,99}\))?\s+)?"
_DEFINITIONS = {
    "Python": (
        re.compile(r"^[ \t]*(?:async\s+)?def\s+(\w+)", re.M),
        re.compile(r"^[ \t]*class\s+(\w+)", re.M),
    ),
    **dict.fromkeys(("JavaScript", "TypeScript", "Vue", "Svelte"), _SCRIPT),
    "Lua": (re.compile(r"\bfunction\b[ \t]{0,9}([\w.:]{0,99})[ \t]{0,9}\("), None),
    "Shell": (re.compile(r"^[ \t]*(?:function[ \t]+)?([\w-]+)[ \t]*\(\)", re.M), None),
    "Go": (
        re.compile(r"^func\s+(?:\([^)]{0,200}\)\s*)?(\w+)", re.M),
        re.compile(r"^type\s+(\w+)\s+(?:struct|interface)\b", re.M),
    ),
    "Rust": (
        re.compile(_RUST_PUB + r"(?:(?:const|async|unsafe)\s+)*fn\s+(\w+)", re.M),
        re.compile(_RUST_PUB + r"(?:struct|enum|trait)\s+(\w+)", re.M),
    ),
    "Ruby": (
        re.compile(r"^[ \t]*def\s+([\w.?!]+)", re.M),
        re.compile(r"^[ \t]*(?:class|module)\s+(\w+)", re.M),
    ),
}  # fmt: skip
_HEADINGS = {
    "Markdown": re.compile(r"^#{1,6}[ \t]+(.+)$", re.M),
    "AsciiDoc": re.compile(r"^={1,6}[ \t]+(.+)$", re.M),
    "Org": re.compile(r"^\*+[ \t]+(.+)$", re.M),
    "TeX": re.compile(r"\\(?:chapter|(?:sub)*section)\*?\{([^}]{0,200})\}"),
    "reStructuredText": re.compile(r"^(\S.*)\n([=\-~^\"'#*+])\2{2,}[ \t]*$", re.M),
    "HTML": re.compile(r"<(?:title|h[1-6])\b[^<>]{0,200}>([^<]{1,200})<", re.I),
    "TOML": re.compile(r"^\[+([^\[\]\n]+)\]", re.M),
    "INI": re.compile(r"^\[([^\]\n]+)\]", re.M),
    "YAML": re.compile(r"^([\w.-]+):", re.M),
    "Make": re.compile(r"^([A-Za-z][\w-]*):(?!=)", re.M),
    "SQL": re.compile(r"\bcreate\s+(?:or\s+replace\s+)?((?:table|view|function)\s+[\w.]+)", re.I),
}
_FENCED = re.compile(r"^[ \t]*(```|~~~).*?^[ \t]*\1[^\n]*$", re.M | re.S)


@dataclass(frozen=True, slots=True)
class Outline:
    """What a file defines. The counts are None where no rule knows how to count.

    `functions` counts methods too. `names`: what is defined at the outermost level and not private.
    `opening`: the docstring or comment the file begins with.
    """

    language: str
    functions: int | None = None
    classes: int | None = None
    names: tuple[str, ...] = ()
    headings: tuple[str, ...] = ()
    opening: str = ""


def outline_of(path: str, text: str) -> Outline:
    """The outline of a file that goes by the name `path`; never fails, whatever the text is."""
    language = language_of(path) or "Text"
    if language == "Python":
        try:
            return _of_python(_parsed(text))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass  # of another version, a template, or hostile: patterns will do
    functions, classes = _DEFINITIONS.get(language, (None, None))
    named = [*_matches(classes, text), *_matches(functions, text)]
    return Outline(
        language=language,
        functions=None if functions is None else len(_matches(functions, text)),
        classes=None if classes is None else len(_matches(classes, text)),
        names=tuple(dict.fromkeys(n for n in named if n and not n.startswith("_"))),
        headings=tuple(_matches(_HEADINGS.get(language), unfenced(text, language))),
        opening="" if language in DOCUMENTS else leading_comment(text, language),
    )


def comment_mark(language: str) -> re.Pattern[str]:
    """What a comment line of the language begins with; C's way where no other is known."""
    return _MARKS.get(language, _CURLY)


def leading_comment(text: str, language: str) -> str:
    """The comment at the head of a file, without its marks; a shebang line is passed over."""
    lines = text.split("\n")
    if lines[0].startswith("#!"):
        lines = lines[1:]
    return "\n".join(_comment_lines(lines, comment_mark(language))).strip()


def unclosed(comment: str) -> str:
    """The text of a comment without the mark that ends it."""
    for mark in ("*/", "-->", "]]"):
        comment = comment.rstrip().removesuffix(mark)
    return comment.rstrip()


def unfenced(text: str, language: str) -> str:
    """The text with Markdown's code blocks blanked; every line keeps its number."""
    if language != "Markdown":
        return text
    return _FENCED.sub(lambda block: "\n" * block.group().count("\n"), text)


def _comment_lines(lines: list[str], mark: re.Pattern[str]) -> Iterator[str]:
    inside = False
    for line in lines:
        found = mark.match(line)
        if found:
            inside = True
            yield unclosed(line[found.end() :])
        elif line.strip() or inside:
            return


def _matches(pattern: re.Pattern[str] | None, text: str) -> list[str]:
    if pattern is None:
        return []
    groups = (next((g for g in m.groups() if g), "") for m in pattern.finditer(text))
    return [group.strip(" \t\r\n#") for group in groups]


def _parsed(text: str) -> ast.Module:
    """One at a time: CPython 3.11 fails when two threads build syntax trees at once (SystemError).

    Nothing is lost by it, as both would hold the interpreter's lock.
    """
    with _PARSER:
        return ast.parse(text)


def _of_python(module: ast.Module) -> Outline:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = list(ast.walk(module))
    named = [n.name for n in module.body if isinstance(n, (ast.ClassDef, *functions))]
    return Outline(
        language="Python",
        functions=sum(isinstance(node, functions) for node in nodes),
        classes=sum(isinstance(node, ast.ClassDef) for node in nodes),
        names=tuple(name for name in named if not name.startswith("_")),
        opening=ast.get_docstring(module) or "",
    )
