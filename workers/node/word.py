"""The word of a node, on its disk: that it lives, and then that it was told to end.

    joins ─▶ lives ─▶ told to end ─▶ ends ─▶ drain, hand over ─▶ take_back         nothing remains
               │                       └─ Redis is away ─▶ another node there: tell_earlier ─▶ no death
               └─ killed ─▶ another node there, where Redis cannot tell: witnessed ─▶ a death

A node that drains while Redis is cut off, or refuses to write, hands nothing over, and its lease runs out:
in Redis that looks like kill -9. With its word told it counts as no death: before it is rescued it is
drained, after that it is exonerated. And where all that Redis knows is that the only node was not heard
any more, one whose last word is that it lives has died; one that left no disk behind may have been told to
end, and is spared.

One JSON object a file, named after the node's boot: ``{"colony": …, "node": …, "told_to_end": false}``.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ValidationError

from colony.settings import Settings
from colony.store import Store

log = logging.getLogger("colony.word")

PREFIX, SUFFIX = "colony-node-", ".json"
KEPT_SECONDS = 7 * 24 * 3600
"""How long one is kept that Redis knows nothing of: it may be another Redis', or away for long."""
MOST_READ = 100
MOST_BYTES = 4096


class Said(BaseModel):
    """What a file says."""

    colony: str
    node: str
    told_to_end: bool


class Word:
    """That of one node. No failure of the disk is in the way of a start or a drain: it is logged."""

    def __init__(self, settings: Settings, colony_id: str, node: str) -> None:
        self._folder = settings.state_dir or Path(tempfile.gettempdir(), f"colony-{os.geteuid()}")
        self._is_default = settings.state_dir is None
        self._colony_id, self._node = colony_id, node
        self._file = self._folder / f"{PREFIX}{node.rpartition('/')[2]}{SUFFIX}"

    def lives(self) -> None:
        """This node has a lease. Again: it still has one. Nothing, where it has been told to end."""
        self._say(self._write_new, told_to_end=False)

    def ends(self) -> None:
        """This node was told to end. From any thread, also from a signal handler; again: the same."""
        self._say(self._write_over, told_to_end=True)

    def take_back(self) -> None:
        """Nothing is left that anybody would have to know."""
        _remove(self._file)

    async def tell_earlier(self, store: Store) -> None:
        """Tell Redis which other nodes of this colony were told to end when they could not say so. That one
        lived is of no use any more when it was rescued."""
        for file, said in self._earlier():
            if said.node == self._node:
                continue
            if said.told_to_end:
                is_done = await _tell(store, said.node)
                if is_done:
                    log.warning("node %s was told to end: it is handed over, not dead", said.node)
            else:
                is_done = not await store.has_lease(said.node)
            if is_done:
                _remove(file)

    def witnessed(self, node: str) -> bool:
        """Whether it is known here that nobody had told a node to end."""
        return any(said.node == node and not said.told_to_end for _, said in self._earlier())

    def _say(self, write: Callable[[str], None], *, told_to_end: bool) -> None:
        said = Said(colony=self._colony_id, node=self._node, told_to_end=told_to_end)
        try:
            if self._is_default:
                self._folder.mkdir(mode=0o700, exist_ok=True)
            self._check_folder()
            write(said.model_dump_json())
        except OSError as error:
            log.warning(
                "cannot leave word of this node, should it end while Redis is away: %s", error
            )

    def _write_new(self, text: str) -> None:
        try:
            with self._file.open("x") as file:
                file.write(text)
        except FileExistsError:
            os.utime(self._file)

    def _write_over(self, text: str) -> None:
        half = self._file.with_suffix(".half")
        half.write_text(text)
        half.replace(self._file)

    def _earlier(self) -> Iterator[tuple[Path, Said]]:
        """Of this colony, the latest first; what is too old is removed, what says nothing is passed over."""
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
            elif position < MOST_READ and (said := _read(file)) and said.colony == self._colony_id:
                yield file, said

    def _check_folder(self) -> None:
        """The default one is where everybody may write: it must be ours. Whoever names one answers for it."""
        status = self._folder.lstat()
        if self._is_default and (status.st_uid != os.geteuid() or status.st_mode & 0o077):
            raise PermissionError(
                f"expected {self._folder} to be a directory that is this user's alone, and it is not: "
                "remove it, or name another in COLONY_STATE_DIR"
            )


async def _tell(store: Store, node: str) -> bool:
    """Whether Redis knew it. It may have been rescued already, or a part of what it held."""
    drained = await store.drain(node, by_word=True)
    counted, _ = await store.exonerate(node, "ended in its drain")
    return drained or counted > 0


def _age(file: Path) -> float:
    """Seconds since it was written; endless where it is gone."""
    with suppress(OSError):
        return time.time() - file.stat().st_mtime
    return math.inf


def _read(file: Path) -> Said | None:
    with suppress(OSError, ValidationError), file.open("rb") as opened:
        return Said.model_validate_json(opened.read(MOST_BYTES))
    return None


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        log.warning("cannot remove %s, which is of no use any more: %s", file, error)
