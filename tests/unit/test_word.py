"""The word that a node leaves on its disk, and who finds it."""

from __future__ import annotations

import os
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest

from colony.settings import Settings
from colony.store import Store
from tests.store.kit import claim, die, running
from workers.node.word import KEPT_SECONDS, MOST_READ, Word

HOUR = timedelta(hours=1)
SPARED_MOST = 10


def of_node(folder: Path | None, store: Store, node: str) -> Word:
    """That of one node of the store's colony."""
    return Word(Settings(state_dir=folder), store.colony_id, f"host/{node}")


async def drains(store: Store, *nodes: str) -> list[bool]:
    """Whether the store knows that they drain."""
    return [await store.is_draining(f"host/{node}") for node in nodes]


async def join(store: Store, *nodes: str) -> None:
    """They have a lease each."""
    for node in nodes:
        await store.beat(f"host/{node}", lease=HOUR, about={"host": "h"}, join=True)


async def test_the_next_node_passes_it_on(store: Store, tmp_path: Path) -> None:
    """Of those that left word and did not take it back, once; then nothing remains."""
    await join(store, "n1", "n2", "n3")
    for node in ("n1", "n2"):
        of_node(tmp_path, store, node).ends()
    of_node(tmp_path, store, "n2").take_back()
    await of_node(tmp_path, store, "n4").tell_earlier(store)
    assert await drains(store, "n1", "n2", "n3") == [True, False, False]
    assert [*tmp_path.iterdir()] == []


async def test_after_the_rescue_it_takes_the_deaths_back(store: Store, tmp_path: Path) -> None:
    """Another node was faster: the word is that it was told to end, and nothing remains of it."""
    worker_id = await running(store, node="host/n1")
    of_node(tmp_path, store, "n1").lives()
    of_node(tmp_path, store, "n1").ends()
    await die(store, "host/n1")
    await store.rescue("host/n1", cap=10, ring_again_after=HOUR)
    await of_node(tmp_path, store, "n2").tell_earlier(store)
    record = await store.get(worker_id)
    assert record is not None
    assert record.resurrections == 0
    assert record.attempts[0].outcome == "node host/n1 ended in its drain"
    assert [*tmp_path.iterdir()] == []


def test_that_it_lives_is_a_witness_until_it_is_told_to_end(tmp_path: Path) -> None:
    """Of a node of this colony, which has left a disk; once told to end it cannot say anything else."""
    settings = Settings(state_dir=tmp_path)
    word, next_one = Word(settings, "c", "host/n1"), Word(settings, "c", "host/n2")
    assert not next_one.witnessed("host/n1")
    word.lives()
    assert next_one.witnessed("host/n1")
    assert not Word(settings, "another", "host/n2").witnessed("host/n1")
    word.ends()
    word.lives()
    assert not next_one.witnessed("host/n1")


async def test_of_itself_a_node_tells_nothing(store: Store, tmp_path: Path) -> None:
    """It knows more than its word: whether it stood still."""
    worker_id = await running(store, node="host/n1")
    word = of_node(tmp_path, store, "n1")
    word.ends()
    await die(store, "host/n1")
    await store.rescue("host/n1", cap=10, ring_again_after=HOUR)
    await word.tell_earlier(store)
    record = await store.get(worker_id)
    assert record is not None
    assert record.resurrections == 1
    assert len([*tmp_path.iterdir()]) == 1


def test_who_lives_for_long_says_so_again(tmp_path: Path) -> None:
    """What is old is removed, but not of a node that has its lease."""
    settings = Settings(state_dir=tmp_path)
    word, next_one = Word(settings, "c", "host/n1"), Word(settings, "c", "host/n2")
    word.lives()
    [file] = tmp_path.iterdir()
    old = file.stat().st_mtime - KEPT_SECONDS - 60
    os.utime(file, (old, old))
    word.lives()
    assert next_one.witnessed("host/n1")
    os.utime(file, (old, old))
    assert not next_one.witnessed("host/n1")


async def test_who_was_rescued_needs_no_witness_any_more(store: Store, tmp_path: Path) -> None:
    """That a node lived is forgotten when its lease is gone; not before, nor of another colony's."""
    await join(store, "n1", "n2")
    for node in ("n1", "n2"):
        of_node(tmp_path, store, node).lives()
    Word(Settings(state_dir=tmp_path), "another", "host/n3").lives()
    await die(store, "host/n1")
    await of_node(tmp_path, store, "n4").tell_earlier(store)
    assert of_node(tmp_path, store, "n4").witnessed("host/n1")
    await store.rescue("host/n1", cap=10, ring_again_after=HOUR)
    await of_node(tmp_path, store, "n4").tell_earlier(store)
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {"colony-node-n2.json", "colony-node-n3.json"}


async def test_a_word_spares_a_worker_ten_times(store: Store, tmp_path: Path) -> None:
    """Whoever is told to end and killed at once may have been so for what its worker does."""
    worker_id = await running(store, node="host/n0")
    for number in range(SPARED_MOST + 1):
        of_node(tmp_path, store, f"n{number}").ends()
        await die(store, f"host/n{number}")
        await of_node(tmp_path, store, "next").tell_earlier(store)
        await store.rescue(f"host/n{number}", cap=10, ring_again_after=HOUR)
        record = await store.get(worker_id)
        assert record is not None
        assert record.resurrections == (number == SPARED_MOST)
        await claim(store, worker_id, node=f"host/n{number + 1}", token=f"t{number}")


async def test_what_is_none_of_its_business_stays(store: Store, tmp_path: Path) -> None:
    """The word of another colony's node, or of one that this Redis does not know; what says nothing holds up
    none that does."""
    await join(store, "n1", "n2")
    Word(Settings(state_dir=tmp_path), "another", "host/n1").ends()
    of_node(tmp_path, store, "unknown").ends()
    (tmp_path / "colony-node-half.json").write_text('{"colony": ')
    (tmp_path / "colony-node-bytes.json").write_bytes(b"\xff" * 100_000)
    (tmp_path / "colony-node-folder.json").mkdir()
    of_node(tmp_path, store, "n2").ends()
    await of_node(tmp_path, store, "n3").tell_earlier(store)
    assert await drains(store, "n1", "n2") == [False, True]
    assert len([*tmp_path.iterdir()]) == 5


async def test_old_ones_are_removed_and_the_latest_are_read(store: Store, tmp_path: Path) -> None:
    """A folder that nobody cleans neither grows for ever nor holds up a start."""
    await join(store, "old", "crowded out", "n1")
    ages = {"old": KEPT_SECONDS + 60, "crowded out": 600} | {f"x{n}": 300 for n in range(MOST_READ)}
    for node, age in ages.items():
        of_node(tmp_path, store, node).ends()
        then = (tmp_path / f"colony-node-{node}.json").stat().st_mtime - age
        os.utime(tmp_path / f"colony-node-{node}.json", (then, then))
    of_node(tmp_path, store, "n1").ends()
    await of_node(tmp_path, store, "n2").tell_earlier(store)
    assert await drains(store, "old", "crowded out", "n1") == [False, False, True]
    assert not (tmp_path / "colony-node-old.json").exists()
    assert (tmp_path / "colony-node-crowded out.json").exists()


@pytest.mark.parametrize("mode", [0o700, 0o777], ids=["ours", "everybody's"])
async def test_the_default_folder_must_be_ours(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    mode: int,
) -> None:
    """It stands where every user of the host may make one first; theirs is neither written nor read."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    of_node(None, store, "n0").ends()
    [folder] = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(mode)
    caplog.clear()
    await join(store, "n0", "n1")
    of_node(None, store, "n1").ends()
    await of_node(None, store, "n2").tell_earlier(store)
    is_ours = mode == 0o700
    assert await drains(store, "n0", "n1") == [is_ours, is_ours]
    assert ("COLONY_STATE_DIR" in caplog.text) is not is_ours


async def test_a_disk_that_cannot_be_written_is_told(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that is missing ends no drain, and no start."""
    missing = of_node(tmp_path / "missing", store, "n1")
    await missing.tell_earlier(store)
    missing.ends()
    missing.take_back()
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert str(tmp_path / "missing") in caplog.text
