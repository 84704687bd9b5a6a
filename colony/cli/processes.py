"""Processes that a command of ours starts: in a session of their own, ended in order, never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import IO

import colony as colony_package
from colony.cli.output import note

STDERR = 2


@contextmanager
def child(
    what: str,
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    grace: timedelta,
    output: int | IO[bytes] = STDERR,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended with SIGTERM when the context ends, and killed when it takes longer than `grace`.

    It is in a session of its own: a terminal's Ctrl-C reaches the owner, who decides the order.
    """
    process = subprocess.Popen(
        command,
        env=os.environ | env,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        end(process, grace, what)


def end(process: subprocess.Popen[bytes], grace: timedelta, what: str) -> None:
    """SIGTERM and a bounded wait; SIGKILL for it and its children when that was not enough."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(grace.total_seconds())
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as impatient:
        why = (
            "a second Ctrl-C" if isinstance(impatient, KeyboardInterrupt) else f"{grace.seconds} s"
        )
        note(f"The {what} had not ended after {why} and is killed.", "yellow")
        with suppress(ProcessLookupError):  # it ended in this very moment
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and a closed terminal are a Ctrl-C; also where a shell had Ctrl-C ignored."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    wanted = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: interrupt,
        signal.SIGHUP: interrupt,
    }
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours, not a namesake in the working directory."""
    home = Path(colony_package.__file__).resolve().parents[1]
    safe = [] if home == Path.cwd() else ["-P"]
    return [sys.executable, *safe, "-m", module, *arguments]


def environment(redis_url: str | None, broker_url: str | None) -> dict[str, str]:
    """The variables that say to another process of ours where Redis is."""
    urls = {"COLONY_REDIS_URL": redis_url, "COLONY_BROKER_URL": broker_url}
    return {name: url for name, url in urls.items() if url}


def bound_command(owner: int, how: signal.Signals, module: str, *arguments: str) -> list[str]:
    """The same, for a process that ends with its owner, whatever ends that: see `colony.bound`."""
    return python_command("colony.bound", str(owner), how.name, module, *arguments)
