"""``python -m workers module:colony``: what ``colony worker`` starts."""

from __future__ import annotations

import sys

from workers.serve import main

sys.exit(main(sys.argv[1:]))
