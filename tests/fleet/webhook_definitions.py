"""The colony whose webhooks are tested."""

from __future__ import annotations

from colony.testing_model import report
from tests.definitions import SCRIPTS, make

SCRIPTS["big-report"] = [report("success", "Big.", {"text": "x" * 20_000})]

hooks = make("hooks")
