"""The agent loop: restore, finish what was open, then ask, write, act, until there is an outcome.

    parts ─▶ transcript ─▶ last answer acted on ─┬─▶ Reported | Parked
                               ▲                 │ go on
                               │                 ▼
               answer written ─┴──── ask the model ◀── limits

Every step is written before the next begins: an answer with the calls it opens and the report it
carries, then each result. A run that is cut anywhere is continued from its parts by the same code:
acting on the last answer does what is left to do, and is the same for a fresh and a restored one.
"""

from __future__ import annotations

from pydantic_ai.messages import (
    ModelRequest,
    ModelResponse,
    RetryFeedbackPart,
    RetryInfo,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters

from colony.conversation import Filed, Step
from colony.metrics.names import COST, TOKENS
from colony.models import ReportStatus
from colony.tools import ParkForChildren
from workers.agent.asking import NoReply, ask, request_parameters
from workers.agent.background import holds_back, is_work_out, tell_ended, wait_for_units
from workers.agent.checkpoints import answer_step
from workers.agent.limits import limit_reached, timed_out
from workers.agent.outcome import HandedOver, Outcome, Parked, Reported, Waiting
from workers.agent.prompts import accounts_prompt, first_request
from workers.agent.report import (
    REPORT_TOOL,
    from_filed,
    from_text,
    judge_reports,
    was_held_back,
)
from workers.agent.run import AgentRun
from workers.agent.tool_calls import PlannedCall, opened_by, plan_calls, run_calls
from workers.agent.transcript import Transcript

SOFT_DEADLINE = (
    "[SOFT DEADLINE] Your time is nearly up. Start nothing new: call report_to_parent now with what you "
    "have, status partial if it is not all."
)
GO_ON = "Your answer was cut off. Go on where it ended, or end by calling report_to_parent."
NO_OUTPUT = "Your answer was empty. Go on with your task, or end by calling report_to_parent."


async def run_agent(run: AgentRun) -> Outcome:
    """Run a worker from where its parts end until it has reported or is to be parked.

    `StaleToken` of the journal and cancellation pass through; nothing that a model or a tool does
    raises. A worker whose deadline passes is cut, also in a call, and reports `timeout`.
    """
    try:
        transcript = Transcript.restore(run.parts)
    except ValueError as error:
        return from_text(None, run.max_report_bytes, ReportStatus.FAILED, error=str(error))
    transcript.requests = max(run.worker.requests, len(transcript.responses))
    if not transcript.messages:
        accounts = accounts_prompt(run.accounts.known.values(), run.tools.values())
        request = first_request(run.goal, run.spec, run.worker.task, run.worker.data, accounts)
        transcript.add_request(request)
    parameters = request_parameters(run.tools, transcript.instructions)
    outcome = await _resume(run, transcript)
    while outcome is None:
        outcome = limit_reached(run, transcript) or await _turn(run, transcript, parameters)
    return outcome


async def _resume(run: AgentRun, transcript: Transcript) -> Outcome | None:
    """Do what the last stored answer asks for and was not done."""
    answer = transcript.last_answer
    if answer is None:
        return None
    held = was_held_back(transcript.results)
    filed, _ = judge_reports(answer.tool_calls, run.max_report_bytes, held_back=held)
    left = [call for call in transcript.unresolved if call.tool_name != REPORT_TOOL]
    groups = plan_calls(run, left, transcript.opened) if not run.draining() else []
    await _open(run, transcript, groups)
    return await _act(run, transcript, answer, filed, groups)


async def _open(run: AgentRun, transcript: Transcript, groups: list[list[PlannedCall]]) -> None:
    """Write that the first group begins, where the part before did not say so: after a hand-over."""
    unopened = [c for c in groups[0] if c.id not in transcript.opened] if groups else []
    if unopened:
        opened, started = opened_by(unopened)
        await run.journal.append(Step([transcript.add_opened(opened)], events=started))


async def _turn(
    run: AgentRun, transcript: Transcript, parameters: ModelRequestParameters
) -> Outcome | None:
    """One question to the model, its answer written, then acted on."""
    await tell_ended(run, transcript)
    _warn_of_deadline(run, transcript)
    reply = await ask(run, transcript, parameters)
    transcript.requests += reply.tries
    if isinstance(reply, NoReply):
        return await _give_up(run, transcript, reply)
    try:
        answer, message = transcript.read_back(reply.response)
    except ValueError as error:
        return await _give_up(run, transcript, NoReply(str(error), reply.retries, reply.tries))
    held = holds_back(run, transcript, answer)
    filed, judged = judge_reports(answer.tool_calls, run.max_report_bytes, held_back=held)
    groups = plan_calls(run, [call for call in answer.tool_calls if call.tool_name != REPORT_TOOL])
    if run.draining():
        groups = []  # not opened, so that another may surely make them
    opened, started = opened_by(groups[0] if groups else ())
    parts = transcript.add_answer(answer, message, opened)
    parts += [transcript.add_result(result) for result in judged]
    turn = len(transcript.responses)
    step = answer_step(turn, answer, parts, [*reply.retries, *started], filed, reply.tries)
    await run.journal.append(step)
    _count(run, answer, step.cost_usd)
    return await _act(run, transcript, answer, filed, groups)


def _count(run: AgentRun, answer: ModelResponse, cost: float | None) -> None:
    """What was written, in the node's metrics."""
    name, model = run.spec.name, run.model_name
    TOKENS.add(name, model, "input", by=answer.usage.input_tokens)
    TOKENS.add(name, model, "output", by=answer.usage.output_tokens)
    if cost is not None:
        COST.add(name, model, by=cost)


def _warn_of_deadline(run: AgentRun, transcript: Transcript) -> None:
    """Past its soft deadline a worker is told so, once, in its next turn."""
    if not run.past_soft_deadline or _was_said(transcript, SOFT_DEADLINE):
        return
    hard = run.seconds_left()
    rest = "" if hard is None else f" You are cut off in {hard:.0f} seconds."
    transcript.add_request(_request_of(UserPromptPart(SOFT_DEADLINE + rest)))


def _was_said(transcript: Transcript, words: str) -> bool:
    return any(
        isinstance(part, UserPromptPart) and str(part.content).startswith(words)
        for message in transcript.messages
        if isinstance(message, ModelRequest)
        for part in message.parts
    )


async def _act(
    run: AgentRun,
    transcript: Transcript,
    answer: ModelResponse,
    filed: Filed | None,
    groups: list[list[PlannedCall]],
) -> Outcome | None:
    """Run the calls of an answer, then see whether it ends the worker (the rules: report.py)."""
    try:
        pause = await run_calls(run, transcript, groups)
    except ParkForChildren as park:
        return Waiting((park.batch_id,))
    if run.draining() and not run.out_of_time and _calls_left(transcript):
        return HandedOver()
    if filed is not None and not (filed.provisional and is_work_out(transcript)):
        return from_filed(filed)
    if pause is not None and not run.out_of_time:
        return Parked(pause)
    ending = None if answer.tool_calls else _conclude(run, transcript, answer)
    is_done = ending is not None and ending.status is ReportStatus.SUCCESS
    if (is_done and holds_back(run, transcript, answer)) or was_held_back(transcript.results):
        return await wait_for_units(run, transcript)
    return ending


def _calls_left(transcript: Transcript) -> bool:
    return any(call.tool_name != REPORT_TOOL for call in transcript.unresolved)


def _conclude(run: AgentRun, transcript: Transcript, answer: ModelResponse) -> Reported | None:
    """How an answer without tool calls ends the worker, if it does."""
    reason, text = answer.finish_reason, _whole_text(transcript)
    withheld = f"the model's answer was withheld: finish reason {reason}"
    if answer.state == "suspended":
        error = "the model answered with a job to wait for; background modes are not supported"
        return from_text(text, run.max_report_bytes, ReportStatus.FAILED, error=error)
    if text and reason in ("content_filter", "error"):
        return from_text(text, run.max_report_bytes, ReportStatus.PARTIAL, error=withheld)
    if text and reason not in ("length", "tool_call"):
        return from_text(text, run.max_report_bytes)
    if text:
        transcript.add_request(_request_of(UserPromptPart(GO_ON)))
        return None
    if reason in ("content_filter", "error", "length"):
        return from_text(None, run.max_report_bytes, ReportStatus.FAILED, error=withheld)
    if _asked_again(transcript):
        error = "the model gave an empty answer, and again when it was asked to go on"
        return from_text(None, run.max_report_bytes, ReportStatus.FAILED, error=error)
    transcript.add_request(_request_of(RetryFeedbackPart(NO_OUTPUT, retry=RetryInfo("no_output"))))
    return None


def _whole_text(transcript: Transcript) -> str:
    """The text of the last answer, after that of the answers it is the rest of."""
    texts = [transcript.responses[-1].text or ""]
    for response in reversed(transcript.responses[:-1]):
        if response.finish_reason != "length" or response.tool_calls:
            break
        texts.append(response.text or "")
    return "".join(reversed(texts)).strip()


def _asked_again(transcript: Transcript) -> bool:
    """Whether the last answer came upon being asked again."""
    question = transcript.messages[-2]
    return any(isinstance(part, RetryFeedbackPart) for part in question.parts)


def _request_of(part: UserPromptPart | RetryFeedbackPart) -> ModelRequest:
    return ModelRequest([part], timestamp=part.timestamp)


async def _give_up(run: AgentRun, transcript: Transcript, reply: NoReply) -> Outcome:
    """End a worker whose model does not answer; what it was asked stays readable."""
    if reply.handed_over:
        if reply.tries:
            await run.journal.append(Step([], requests=reply.tries, events=reply.retries))
        return HandedOver()
    parts = transcript.take_unwritten()
    if parts or reply.tries:
        await run.journal.append(Step(parts, requests=reply.tries, events=reply.retries))
    if reply.out_of_time:
        return timed_out(run, transcript)
    return from_text(None, run.max_report_bytes, ReportStatus.FAILED, error=reply.error)
