"""Pages of triggers: each comes once, and of those on other pages only the ids are read."""

from __future__ import annotations

import pytest

from colony.models import TriggerInfo
from colony.store import Store
from colony.triggers import TriggerSpec
from colony.triggers.keeping import put


async def test_a_page_reads_no_more_than_its_triggers(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one of them is removed meanwhile: the pages behind it are not lost."""
    read: list[str] = []
    info = Store._info

    async def noted(self: Store, trigger_id: str, spec: str) -> TriggerInfo:
        read.append(trigger_id)
        return await info(self, trigger_id, spec)

    monkeypatch.setattr(Store, "_info", noted)
    names = [f"t{n}" for n in range(7)]
    for name in reversed(names):
        await put(store, TriggerSpec.of({"id": name, "trigger_type": "manual", "task": "x"}))
    page, more = await store.page_triggers("", 3)
    assert ([each.trigger_id for each in page], more) == (names[:3], "t2")
    assert read == names[:3]
    await store.remove_trigger("t2")
    page, more = await store.page_triggers("t2", 3)
    assert ([each.trigger_id for each in page], more) == (names[3:6], "t5")
    assert ([each.trigger_id for each in (await store.page_triggers("t5", 3))[0]]) == ["t6"]
    assert await store.page_triggers("t6", 3) == ([], None)
    ids = Store._ids

    async def stale(self: Store) -> list[str]:
        found = await ids(self)
        await self.remove_trigger("t1")
        return found

    monkeypatch.setattr(Store, "_ids", stale)
    page, more = await store.page_triggers("", 2)
    assert ([each.trigger_id for each in page], more) == (["t0"], "t1")
