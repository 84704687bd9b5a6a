"""Flower in a real browser, over a fleet whose nodes are killed: pages, links, the button that stops one."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Locator, Page, async_playwright

from colony import ReportStatus
from colony.models import WorkerState
from colony.testing import Fleet, wait_until
from tests.fleet.flower_kit import PASSWORD, USER, Flower, flower
from tests.fleet.helpers import node_name, records
from tests.fleet.tree_helpers import children_of, gates, until_states

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

TREES = "tests.fleet.tree_definitions:trees"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def browser_path() -> str:
    """Debian's Chromium. A laptop may be without, CI installs it (`.ci/run`)."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        why = "there is no Chromium on PATH: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must run these tests: {why}")
        pytest.skip(why)
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where gates, logs and screenshots are."""
    return tmp_path_factory.mktemp("browser")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(folder: Path) -> AsyncIterator[Fleet]:
    """Two nodes with short leases."""
    browser_path()
    with gates(folder):
        async with Fleet(TREES, nodes=2, lease="1.5", beat_interval="0.5") as fleet:
            yield fleet


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shown(running: Fleet, folder: Path) -> AsyncIterator[Flower]:
    """A Flower that has heard of them."""
    with flower(running, folder) as it:
        await it.until_it_knows(2)
        yield it


@pytest_asyncio.fixture(loop_scope="module")
async def page(shown: Flower) -> AsyncIterator[Page]:
    """A window of a browser that is signed in, and has said nothing on its console at the end."""
    said: list[str] = []
    async with async_playwright() as starter:
        options = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = await starter.chromium.launch(executable_path=browser_path(), args=options)
        context = await browser.new_context(
            http_credentials={"username": USER, "password": PASSWORD},
            viewport={"width": 1400, "height": 720},
        )
        made = await context.new_page()
        made.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        made.on("pageerror", lambda error: said.append(f"error: {error}"))
        made.set_default_timeout(15_000)
        yield made
        await browser.close()
    assert [words for words in said if words.startswith(("error", "warning"))] == []


def row(page: Page, worker_id: str) -> Locator:
    """The line of a worker in the table of tasks."""
    return page.locator(f"#tasks-table tbody tr#{worker_id}")


async def until_row(page: Page, worker_id: str, *words: str) -> None:
    """Load the table anew until a worker's line has these words."""

    async def there() -> bool:
        await page.reload()
        line = row(page, worker_id)
        await line.wait_for()
        text = await line.inner_text()
        return all(word in text for word in words)

    await wait_until(there, 20, what=f"the line of {worker_id} says {words}")


async def test_the_fleet_in_a_browser(
    running: Fleet, shown: Flower, folder: Path, page: Page
) -> None:
    """Tasks with their states over a kill -9, a task's page with the way to its parent, Terminate, nodes."""
    fleet = running.runtime
    [ended] = await fleet.spawn("fetch")
    [failed] = await fleet.spawn("fail")
    [tree] = await fleet.spawn("each hold tree / hold tree")
    children = await children_of(fleet, tree, 2)
    one, other = await fleet.spawn_batch(["hold gate", "hold gate"])
    await until_states(fleet, [*children, one, other], WorkerState.RUNNING)
    await page.goto(f"{shown.url}/tasks")
    await until_row(page, ended, "agent:agent", "SUCCESS", "COMPLETED")
    await until_row(page, failed, "FAILURE", "FAILED")
    await until_row(page, tree, "STARTED", "PARKED (children)")
    await until_row(page, one, "STARTED", "RUNNING", "turn 1 · calls hold")

    [record] = await records(fleet, [one])
    [victim] = [node for node in running.nodes if await node_name(fleet, node) == record.node]
    victim.kill()
    running.nodes.remove(victim)
    await running.add_nodes(1)

    async def rescued() -> bool:
        [record] = await records(fleet, [one])
        return record.state is WorkerState.RUNNING and record.epoch == 2

    await wait_until(rescued, 15, what="its worker runs elsewhere")
    await page.goto(f"{shown.url}/task/{children[0]}")
    up = page.locator(f"a[href$='/task/{tree}']").first

    async def shows_parent() -> bool:
        await page.reload()  # a page of Flower says what Flower knew when it was asked for
        return await up.is_visible()

    await wait_until(shows_parent, 20, what="the page of a child has the way to its parent")
    await page.screenshot(path=folder / "task.png")
    await up.click()
    await page.wait_for_url(f"**/task/{tree}")
    assert "PARKED (children)" in await page.inner_text("#task-page")

    await page.goto(f"{shown.url}/task/{one}")
    await page.click("#task-terminate")
    report = await fleet.wait_for_worker(one, timeout=15)
    assert report is not None
    assert report.status is ReportStatus.STOPPED
    [neighbour] = await records(fleet, [other])
    assert neighbour.state is WorkerState.RUNNING
    await page.goto(f"{shown.url}/tasks")
    await until_row(page, one, "REVOKED", "STOPPED")
    await until_row(page, other, "STARTED")
    await page.screenshot(path=folder / "tasks.png")
    (folder / "gate").touch()
    (folder / "tree").touch()
    await fleet.wait_for_worker_reports([tree, other], timeout=15)
    for worker in (tree, *children, other):
        await until_row(page, worker, "SUCCESS", "COMPLETED")

    await page.goto(f"{shown.url}/workers")
    for node in running.nodes:
        name = (await node_name(fleet, node)).partition("/")[0]
        await page.get_by_text(name).first.wait_for()
    await page.screenshot(path=folder / "workers.png")
    shots = {shot.name: shot.stat().st_size for shot in folder.glob("*.png")}
    assert shots.keys() == {"task.png", "tasks.png", "workers.png"}
    assert min(shots.values()) > 10_000, "a page with something on it"
