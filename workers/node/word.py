"""The farewell: word on a node's disk that it was told to end, for when Redis cannot be told.

    told to end ─▶ leave ─▶ drain, hand over ─▶ take_back          nothing remains
                               └─ Redis is away ─▶ the next node there: tell_earlier ─▶ `Store.drain`

A node that drains while Redis is cut off, or refuses to write, hands nothing over, and its lease runs out:
in Redis that looks like kill -9. With its farewell told before it is rescued, it counts as no death. What
no other node finds (its disk is gone, too) cannot be told: there it counts.

One JSON object a file, ``{"colony": …, "node": …}``, named after the node's boot.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ValidationError

from colony.settings import Settings
from colony.store import Store

log = logging.getLogger("colony.farewell")

PREFIX, SUFFIX = "farewell-", ".json"
KEPT_SECONDS = 7 * 24 * 3600
"""How long one is kept that Redis knows nothing of: it may be another Redis', or away for long."""
MOST_READ = 100
MOST_BYTES = 4096


class Word(BaseModel):
    """What a file says."""

    colony: str
    node: str


class Farewell:
    """That of one node. No failure of the disk is in the way of a drain: it is logged."""

    def __init__(self, settings: Settings, colony_id: str, node: str) -> None:
        self._folder = settings.state_dir or Path(tempfile.gettempdir(), f"colony-{os.geteuid()}")
        self._is_default = settings.state_dir is None
        self._word = Word(colony=colony_id, node=node)
        self._file = self._folder / f"{PREFIX}{node.rpartition('/')[2]}{SUFFIX}"

    def leave(self) -> None:
        """From any thread, also from a signal handler; again: the same."""
        try:
            if self._is_default:
                self._folder.mkdir(mode=0o700, exist_ok=True)
            self._check_folder()
            half = self._file.with_suffix(".half")
            half.write_text(self._word.model_dump_json())
            half.replace(self._file)
        except OSError as error:
            log.warning("cannot leave word that this node ends, should Redis be away: %s", error)

    def take_back(self) -> None:
        """Nothing is left that Redis would have to be told."""
        _remove(self._file)

    async def tell_earlier(self, store: Store) -> None:
        """Tell Redis which nodes of this colony were told to end when they could not say so themselves."""
        for file, word in self._earlier():
            if word.colony == self._word.colony and await store.drain(word.node):
                log.warning("node %s was told to end: it is handed over, not dead", word.node)
                _remove(file)

    def _earlier(self) -> Iterator[tuple[Path, Word]]:
        """The latest first; what is too old is removed, and what says nothing is passed over."""
        try:
            self._check_folder()
        except OSError as error:
            if not (self._is_default and isinstance(error, FileNotFoundError)):
                log.warning("cannot read what nodes before this one left: %s", error)
            return
        files = [(_age(file), file) for file in self._folder.glob(f"{PREFIX}*{SUFFIX}")]
        for position, (age, file) in enumerate(sorted(files)):
            if age > KEPT_SECONDS:
                _remove(file)
            elif position < MOST_READ and (word := _read(file)):
                yield file, word

    def _check_folder(self) -> None:
        """The default one is where everybody may write: it must be ours. Whoever names one answers for it."""
        status = self._folder.lstat()
        if self._is_default and (status.st_uid != os.geteuid() or status.st_mode & 0o077):
            raise PermissionError(
                f"expected {self._folder} to be a directory that is this user's alone, and it is not: "
                "remove it, or name another in COLONY_STATE_DIR"
            )


def _age(file: Path) -> float:
    """Seconds since it was written; endless where it is gone."""
    with suppress(OSError):
        return time.time() - file.stat().st_mtime
    return math.inf


def _read(file: Path) -> Word | None:
    with suppress(OSError, ValidationError), file.open("rb") as opened:
        return Word.model_validate_json(opened.read(MOST_BYTES))
    return None


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        log.warning("cannot remove %s, which is of no use any more: %s", file, error)
