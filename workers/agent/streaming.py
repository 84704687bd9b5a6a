"""The text of an answer while it is written, told in pieces of a tenth of a second."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from pydantic_ai.messages import (
    ModelResponse,
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
)
from pydantic_ai.models import StreamedResponse

from workers.agent.text import MAX_ANSWER_BYTES

SECONDS_BETWEEN_DELTAS = 0.1


async def stream_response(
    stream: AbstractAsyncContextManager[StreamedResponse], tell: Callable[[str], Awaitable[None]]
) -> ModelResponse:
    """The whole answer of a stream, after its text was told piece by piece."""
    pieces: list[str] = []
    told_at, size = time.monotonic(), 0
    async with stream as response:
        async for event in response:
            if text := _text_of(event):
                pieces.append(text)
                if (size := size + len(text)) > MAX_ANSWER_BYTES:
                    raise ValueError(
                        f"the model's answer has more than {MAX_ANSWER_BYTES} bytes, the most that are taken"
                    )
            if pieces and time.monotonic() - told_at >= SECONDS_BETWEEN_DELTAS:
                await tell("".join(pieces))
                pieces.clear()
                told_at = time.monotonic()
        if pieces:
            await tell("".join(pieces))
        return response.get()


def _text_of(event: ModelResponseStreamEvent) -> str:
    if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
        return event.part.content
    if isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
        return event.delta.content_delta
    return ""
