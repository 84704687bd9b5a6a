"""What comes from outside is bounded, and says so; `colony.security` has the table."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pydantic_ai.messages import ModelResponse, TextPart

from colony import ColonyRuntime, Subscription
from colony.errors import InvalidSubscription, InvalidTask, InvalidTrigger
from colony.settings import Settings
from colony.sizes import MAX_FILE_BYTES, MAX_LABEL, MAX_REASON, MAX_SPEC_BYTES, read_bounded
from colony.spawning import SpawnOptions
from colony.triggers.spec import TriggerSpec, TriggerType
from workers.agent.text import MAX_ANSWER_BYTES
from workers.agent.transcript import Transcript

LABELS = ("correlation_id", "idempotency_key", "stream_id", "concurrency_key")


@pytest.mark.parametrize("label", LABELS)
def test_labels_of_a_spawn(label: str) -> None:
    """The longest is taken, one more character is not."""
    SpawnOptions(**{label: "x" * MAX_LABEL})  # type: ignore[arg-type]
    with pytest.raises(InvalidTask, match=f"{label}: expected at most {MAX_LABEL} characters"):
        SpawnOptions(**{label: "x" * (MAX_LABEL + 1)})  # type: ignore[arg-type]


def test_what_a_command_reads(tmp_path: Path) -> None:
    """A file and standard input, to the byte; nothing more is read into memory."""
    file = tmp_path / "tasks"
    with file.open("wb") as sparse:
        sparse.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(InvalidTask, match="split it"):
        read_bounded(str(file), io.StringIO())
    file.write_text("é")
    assert read_bounded(str(file), io.StringIO()) == "é"
    assert read_bounded("-", io.StringIO("from stdin")) == "from stdin"


def test_an_answer_of_the_model() -> None:
    """The largest is stored as it is, a larger one is refused before it is written."""
    transcript = Transcript.restore([])
    transcript.read_back(ModelResponse([TextPart("x" * (MAX_ANSWER_BYTES - 2000))]))
    with pytest.raises(ValueError, match=f"at most {MAX_ANSWER_BYTES} are taken"):
        transcript.read_back(ModelResponse([TextPart("x" * MAX_ANSWER_BYTES)]))


async def test_verbs_check_before_they_write() -> None:
    """Stop reasons, triggers and subscriptions: refused without a word to Redis, which is not there."""
    nowhere = Settings(redis_url="redis://127.0.0.1:1/0")
    runtime = ColonyRuntime("any", settings=nowhere)
    with pytest.raises(InvalidTask, match=f"reason: expected at most {MAX_REASON}"):
        await runtime.stop_worker("w1", "x" * (MAX_REASON + 1))
    with pytest.raises(InvalidTask, match="reason"):
        await runtime.stop_all_workers("x" * (MAX_REASON + 1))
    bulk = {"bulk": "x" * MAX_SPEC_BYTES}
    trigger = TriggerSpec(id="t", trigger_type=TriggerType.MANUAL, task="fetch", data=bulk)
    with pytest.raises(InvalidTrigger, match=f"at most {MAX_SPEC_BYTES} are kept"):
        await runtime.put_trigger(trigger)
    subscription = Subscription(
        id="s", url="https://example.org/", secret="env:COLONY_S", where=bulk
    )
    with pytest.raises(InvalidSubscription, match=f"at most {MAX_SPEC_BYTES} are kept"):
        await runtime.put_subscription(subscription)
