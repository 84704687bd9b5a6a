"""What an answer cost, where pydantic-ai's price list knows its model."""

from __future__ import annotations

import logging

from pydantic_ai.messages import ModelResponse

logger = logging.getLogger(__name__)

_unknown: set[tuple[str | None, str | None]] = set()
"""(provider, model) pairs without a price: looked up once per process, not once per answer."""


def cost_of(response: ModelResponse) -> float | None:
    """US dollars of one answer, tool calls and cache included; None where no price is known."""
    if response.usage.cost is not None:  # the gateway's own figure
        return float(response.usage.cost)
    name = (response.provider_name, response.model_name)
    if name in _unknown or response.model_name is None:
        return None
    try:
        return float(response.cost().total_price)
    except LookupError:
        _unknown.add(name)
    except Exception as error:  # noqa: BLE001 - a price is a courtesy; no run fails for it
        logger.debug("no cost for an answer of %s: %s", name, error)
    return None
