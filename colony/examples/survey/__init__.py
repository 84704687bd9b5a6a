"""Survey a folder: one worker reads each document or source file, a last one writes `survey.md`.

::

    run.survey ──▶ lead ──▶ readers, one a file ──reports──▶ lead ──▶ editor ──▶ survey.md
                  (files)    (reading, words)              (entries)  (page)

=============  ====================================================================================
files          which files are surveyed, and the one way to open them
reading        what the readers' tools return: pages, outline, TODOs, terms
words          words and sentences: what is frequent, what is central
entries        a reader's report as the editor gets it
page           survey.md as text, and the file it is written to
definition     the colony: three agents and their tools
lead           the lead's rules: who reads what, and what the editor is handed
offline        the model for those without a key: rules and extraction, no network, no LLM
run            the producer
=============  ====================================================================================

Which model: `COLONY_MODEL` (any pydantic-ai model string, or ``offline``) on the nodes; without it
OpenAI or Anthropic where their key is set; otherwise the offline model, which says so everywhere.

Nodes serve ``colony.examples.survey:colony``. The definition is imported when it is first asked
for: producers import `colony.examples.survey.run` and need no model layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from colony.errors import DefinitionError

if TYPE_CHECKING:
    from colony.examples.survey.definition import colony

__all__ = ["colony"]


def __getattr__(name: str) -> object:
    if name != "colony":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from colony.examples.survey.definition import colony  # noqa: PLC0415 - needs a node's install
    except ModuleNotFoundError as error:
        raise DefinitionError(
            f"the survey colony needs {error.name!r}, which is not installed here: "
            "nodes want pip install 'colony[node]'"
        ) from error
    return colony
