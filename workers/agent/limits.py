"""What ends a worker before it is done, asked before each question to the model."""

from __future__ import annotations

from colony.models import ReportStatus
from workers.agent.outcome import Reported
from workers.agent.report import from_text, last_text
from workers.agent.run import AgentRun
from workers.agent.transcript import Transcript


def limit_reached(run: AgentRun, transcript: Transcript) -> Reported | None:
    """The report of a worker that may not ask again: timeout, or partial with what there is."""
    if run.out_of_time:
        return timed_out(run, transcript)
    turns, tokens = len(transcript.responses), transcript.tokens
    if turns >= run.spec.max_turns:
        return _partial(run, transcript, f"turn limit ({run.spec.max_turns}) reached")
    if run.spec.max_requests is not None and transcript.requests >= run.spec.max_requests:
        return _partial(run, transcript, f"request limit ({run.spec.max_requests}) reached")
    if run.spec.max_tokens is not None and tokens >= run.spec.max_tokens:
        return _partial(
            run, transcript, f"token limit ({run.spec.max_tokens}) reached: {tokens} used"
        )
    return None


def timed_out(run: AgentRun, transcript: Transcript) -> Reported:
    """The report of a worker whose deadline has passed."""
    error = f"deadline reached after {len(transcript.responses)} model answers"
    text = last_text(transcript.responses)
    return from_text(text, run.max_report_bytes, ReportStatus.TIMEOUT, error=error)


def _partial(run: AgentRun, transcript: Transcript, error: str) -> Reported:
    text = last_text(transcript.responses)
    return from_text(text, run.max_report_bytes, ReportStatus.PARTIAL, error=error)
