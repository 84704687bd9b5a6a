"""The extractive summary: sentences of the file itself, and what was counted in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from colony.examples.survey.files import DOCUMENTS
from colony.examples.survey.outline import unfenced
from colony.examples.survey.reading import Figures, Term
from colony.examples.survey.words import central, clip, sentences_of

MAX_PARAGRAPH = 900
"""Characters of a paragraph."""

_NOT_PROSE = re.compile(
    r"\s{4,}\S|\s*(?:[#|>:=~+<\\]|[-*_=]{3,}|\.\. |>>>|\$ |!?\[!?\[|<!--)"
    r"|\s*(?:[-*+•]|\d+[.)])\s+\S"
)
_LINK = re.compile(r"!?\[([^\]]{0,200})\]\([^)]{0,300}\)")
_CODE = re.compile(r"(`[^`]*`)")
_TAG = re.compile(r"</?[A-Za-z!][^<>\n]{0,200}>")


def summarise(figures: Figures, text: str, terms: Sequence[Term]) -> tuple[str, str]:
    """The title of a file and a paragraph about it.

    `text` is what was read of it, from its beginning; `figures` and `terms` are of the whole file.
    """
    frequencies = {term["term"]: term["count"] for term in terms}
    if figures["language"] in DOCUMENTS:
        return _of_document(figures, text, frequencies)
    return _of_source(figures, frequencies)


def listed(items: Sequence[str], limit: int, *, code: bool = False) -> str:
    """``a, b and c``, or ``a, b and 7 more`` where there are more than `limit`."""
    shown = [f"`{item}`" if code else item for item in items[:limit]]
    if len(items) > limit:
        shown.append(f"{len(items) - limit} more")
    if len(shown) < 2:
        return "".join(shown)
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def _of_document(figures: Figures, text: str, frequencies: dict[str, int]) -> tuple[str, str]:
    headings = [_inline(heading) for heading in figures["headings"]]
    paragraphs = list(_prose(unfenced(text, figures["language"])))
    first = sentences_of(paragraphs[0])[:3] if paragraphs else []
    rest = [s for p in paragraphs[1:] for s in sentences_of(p) if s.endswith((".", "!", "?"))]
    said = [*first, *central(rest, frequencies, 2)]
    name = PurePosixPath(figures["path"]).name
    opening = next((line.strip() for line in text.split("\n") if line.strip()), name)
    title = headings[0] if headings else clip(_inline(opening), 80)
    sections = [f"“{clip(heading, 60)}”" for heading in headings[1:]]
    closing = f"Its sections: {listed(sections, 8)}." if sections else ""
    if not said and not closing:
        kind = _article(figures["language"])
        said = [f"{kind} document of {figures['words']} words without prose."]
    return title, _paragraph(said, closing)


def _of_source(figures: Figures, frequencies: dict[str, int]) -> tuple[str, str]:
    paragraphs = list(_prose(figures["opening"]))
    first = sentences_of(paragraphs[0])[:3] if paragraphs else []
    rest = [s for p in paragraphs[1:] for s in sentences_of(p)]
    said = [*first, *central(rest, frequencies, 2)]
    name = PurePosixPath(figures["path"]).name
    title = clip(first[0].rstrip("."), 80) if first else name
    if not said:
        said = [f"{_article(figures['language'])} file that does not say in words what it is for."]
        if frequencies:
            said.append(f"It speaks mostly of {listed(list(frequencies)[:5], 5)}.")
    return title, _paragraph(said, _definitions(figures))


def _definitions(figures: Figures) -> str:
    if figures["names"]:
        return f"It defines {listed(figures['names'], 6, code=True)}."
    if figures["headings"]:
        return f"Its sections: {listed(figures['headings'], 8, code=True)}."
    return ""


def _paragraph(said: Sequence[str], closing: str) -> str:
    body = " ".join(s if s.endswith((".", "!", "?")) else _ended(s) for s in said)
    return f"{clip(body, MAX_PARAGRAPH)} {closing}".strip()


def _ended(sentence: str) -> str:
    return sentence.rstrip(" :;,") + "."


def _prose(text: str) -> Iterator[str]:
    for block in re.split(r"\n[ \t]*\n", text):
        lines = block.strip("\n").split("\n")
        if any(_NOT_PROSE.match(line) for line in lines):
            continue
        flat = _inline(" ".join(lines))
        letters = sum(c.isalpha() or c.isspace() for c in flat)
        if len(flat.split()) >= 3 and letters >= 0.75 * len(flat):
            yield flat


def _inline(text: str) -> str:
    """Without links' targets, images, HTML and emphasis; code spans stay."""
    pieces = _CODE.split(" ".join(text.replace("``", "`").split()))
    return "".join(p if p.startswith("`") else _bare(p) for p in pieces)


def _bare(text: str) -> str:
    return _TAG.sub("", _LINK.sub(r"\1", text)).replace("**", "").replace("__", "")


def _article(language: str) -> str:
    return f"{'An' if language[0] in 'AEIO' else 'A'} {language}"
