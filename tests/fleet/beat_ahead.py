"""A beat whose clock is an hour ahead: ``python -m tests.fleet.beat_ahead beat``."""

from __future__ import annotations

import datetime
import sys
import time

HOUR = datetime.timedelta(hours=1)


class Ahead(datetime.datetime):
    """The times of a host with a wrong clock."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Ahead:
        return cls.fromtimestamp(true_time() + HOUR.total_seconds(), tz)


true_time = time.time

if __name__ == "__main__":
    time.time = lambda: true_time() + HOUR.total_seconds()
    datetime.datetime = Ahead  # type: ignore[misc]
    from celery.__main__ import main

    sys.argv = ["celery", "--app", "workers.app", "beat", "--loglevel", "info"]
    main()
