"""The process between an `EmbeddedRedis` and its server: it ends the server when the owner ends.

Only the owner holds the writing end of the lifeline pipe. A byte on it is an order; end of file
means that the owner let go or died, also by SIGKILL, and then the server is ended and a temporary
directory removed. Run as a file by `colony.redis_server` under ``python -I -S``: standard library
only, so that it starts in tens of milliseconds.

    python _redis_guard.py LIFELINE_FD GRACE_SECONDS TEMPORARY_DIRECTORY-OR-EMPTY SERVER ARGUMENT...
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

TERMINATE = b"T"
"""Order: SIGTERM, SIGKILL after the grace time; keep the directory."""

KILL = b"K"
"""Order: SIGKILL at once; keep the directory."""

STDERR = 2


def guard(lifeline: int, grace_seconds: float, temporary_directory: str, server: list[str]) -> int:
    """Run the server until it ends or the lifeline says so; return the server's exit status."""
    process = subprocess.Popen(server, stdin=subprocess.DEVNULL, stdout=STDERR)
    # A stray signal to this process must not leave the server without its guard.
    for stray in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stray, lambda _signal, _frame: process.terminate())
    print(process.pid, flush=True)

    abandoned = threading.Event()

    def obey() -> None:
        order = os.read(lifeline, 1)
        if not order:
            abandoned.set()
        if order != KILL:
            process.terminate()
            time.sleep(grace_seconds)  # cut short by the end of this process
        process.kill()

    threading.Thread(target=obey, daemon=True).start()
    status = process.wait()
    if temporary_directory and abandoned.is_set():
        shutil.rmtree(temporary_directory, ignore_errors=True)  # nobody is left to be told
    return status


if __name__ == "__main__":
    lifeline_fd, grace, temporary, *command = sys.argv[1:]
    sys.exit(guard(int(lifeline_fd), float(grace), temporary, command) & 0xFF)
