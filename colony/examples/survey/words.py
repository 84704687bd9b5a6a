"""Words and sentences: which are frequent, which are central. Plain counting, no model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

_STOPWORDS = """
about above after again all also and any are because been before being below between both but can
cannot could did does doing done down each either else even ever every few for from further get
gets give given got had has have having her here hers him his how into its itself just keep least
less let like made make makes many may might more most must need never new nor not now off once
one ones only other others our out over own per put rather same say says see set shall she should
since some still such take takes than that the their them then there these they this those through
thus too two under until upon use used uses using very via was way well were what when where
whether which while who whom whose why will with within without would yet you your abstract args
assert async await bool break byte bytes case catch cast cfg char class cls const continue def
default del dict elif end enum err except exit export extends false final finally float fmt fn
func function global goto http https if impl import include init int interface isinstance kwargs
lambda len list local main mod mut namespace nil none null object optional override package param
params pass print private protected pub public raise range require return returns self sorted
static std str string struct super switch tests throw true try tuple type typedef types typing
union unsigned val value values var void yield
"""
STOPWORDS = frozenset(_STOPWORDS.split())
"""Words that say nothing about a text: common English, and what programs are held together with."""

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
_WHOLE = re.compile(r"[^\W\d_]+")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')`*]*\s+(?=[\"'(`*]*[A-Z0-9])")


def count_words(text: str) -> int:
    """Words as `wc -w` counts them: runs of characters without white space."""
    return len(text.split())


def terms_of(text: str) -> list[str]:
    """The words that say what a text is about, in lower case; identifiers are taken apart."""
    words: list[str] = []
    for whole in _WHOLE.findall(text):
        pieces = _WORD.findall(whole) if whole.isascii() else [whole]
        words.extend(piece.lower() for piece in pieces)
    return [word for word in words if 2 < len(word) <= 30 and word not in STOPWORDS]


def most_frequent(text: str, limit: int) -> list[tuple[str, int]]:
    """The `limit` most frequent terms with their counts; equals in order of the alphabet."""
    counts = Counter(terms_of(text))
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit]


def sentences_of(prose: str) -> list[str]:
    """The sentences of one paragraph, white space made single."""
    flat = " ".join(prose.split())
    return [s for s in _SENTENCE_END.split(flat) if s]


def central(sentences: Sequence[str], frequencies: Mapping[str, int], limit: int) -> list[str]:
    """The `limit` sentences in which the frequent terms stand most densely, in their own order."""

    def weight(sentence: str) -> float:
        terms = set(terms_of(sentence))
        return sum(frequencies.get(term, 0) for term in terms) / (len(terms) + 4)

    fit = [s for s in sentences if 5 <= len(s.split()) <= 45 and not s.isupper()]
    best = sorted(fit, key=weight, reverse=True)[:limit]
    return [s for s in fit if s in best]


def clip(text: str, limit: int) -> str:
    """At most `limit` characters, cut between words, with an ellipsis where something was cut."""
    if len(text) <= limit:
        return text
    cut = text[: limit - 1]
    return (cut.rsplit(" ", 1)[0] if " " in cut[limit // 2 :] else cut).rstrip(" ,;:") + "…"
