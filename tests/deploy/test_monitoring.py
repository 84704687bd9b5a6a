"""Alerts and dashboard name only metrics and labels that a real node, beat and gateway export; all that
is exported is shown; Prometheus reads both files, and its alerts fire and rest."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import typer
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML
from typer.core import TyperGroup

from colony.cli import app
from colony.metrics import names
from colony.metrics.instruments import Counter, Histogram
from colony.testing import Fleet, wait_until
from tests.deploy.kit import DEPLOY, checker, run
from tests.fleet.test_health import free_port
from tests.gateway.kit import Gateway

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

PROMETHEUS = DEPLOY / "prometheus"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "colony.json"

NAME = re.compile(r"\b(?:colony|process|python)_\w+(?!\w*\()")
SELECTOR = re.compile(r"(\b\w+)\{([^}]*)\}")
BY = re.compile(r"\bby \(([^)]*)\)")
OF_THE_SCRAPE = {"instance", "le"}

Exported = dict[str, set[str]]


def names_in(promql: str) -> set[str]:
    """The metrics that a query asks for: what stands in braces, quotes and `by` is none."""
    return set(NAME.findall(BY.sub("", re.sub(r'"[^"]*"|\{[^}]*\}', "", promql))))


def labels_in(promql: str) -> set[str]:
    """The labels that it selects and groups by."""
    chosen = {
        label
        for _, inside in SELECTOR.findall(promql)
        for label in re.findall(r"(\w+)\s*(?:=~|!=|=|!~)", re.sub(r'"[^"]*"', '""', inside))
    }
    return chosen | {label.strip() for group in BY.findall(promql) for label in group.split(",")}


def rules() -> list[dict[str, Any]]:
    """All alerts."""
    read = YAML(typ="safe").load(PROMETHEUS / "alerts.yml")
    return [rule for group in read["groups"] for rule in group["rules"]]


def panels() -> Iterator[tuple[str, str]]:
    """Title and query of all that the dashboard shows."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """What a node, a beat and a gateway export: names of series, with their labels (declared, or seen)."""
    port, ticks = free_port(), free_port()
    log: Path = tmp_path_factory.mktemp("gateway") / "log"
    async with Fleet("tests.definitions:basic", nodes=0) as fleet:
        await fleet.add_nodes(health_port=str(port))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("COLONY_HEALTH_PORT", str(ticks))
            fleet.start_beat()
        gateway = Gateway(fleet.redis_url, log)
        try:
            [worker] = await fleet.runtime.spawn("echo")
            await fleet.runtime.wait_for_worker(worker, 20)
            await asyncio.to_thread(gateway.wait_ready)
            asked = f"{gateway.url}/v1/colonies/basic/stats"
            with pytest.raises(urllib.error.HTTPError, match="401"):  # which the store counts
                await asyncio.to_thread(urllib.request.urlopen, asked, timeout=5)
            await wait_until(lambda: _is_open(ticks), 20, what="the beat answers")
            urls = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{ticks}", gateway.url
            found: Exported = {}
            for name, labels in (each for url in urls for each in _series(url)):
                found.setdefault(name, set()).update(labels)
            return found
        finally:
            gateway.kill()


def _is_open(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def _series(url: str) -> Iterator[tuple[str, set[str]]]:
    declared = {
        each.name: {*each.labels, "colony"}
        for each in vars(names).values()
        if isinstance(each, Counter | Histogram)
    }
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
    for family in text_string_to_metric_families(text):
        seen = {label for sample in family.samples for label in sample.labels}
        total = f"{family.name}_total" if family.type == "counter" else family.name
        for suffix in suffixes.get(family.type, [""]):
            yield family.name + suffix, seen | declared.get(total, set())


async def test_what_is_asked_for_is_exported(exported: Exported) -> None:
    """Each name, and each label of a query for at least one of its metrics."""
    asked = [*((rule["alert"], rule["expr"]) for rule in rules()), *panels()]
    assert len(asked) > 80
    for what, query in asked:
        found = names_in(query)
        assert found, (what, query)
        assert found <= exported.keys(), (what, found - exported.keys())
        known = set().union(*(exported.get(name, set()) for name in found)) | OF_THE_SCRAPE
        assert labels_in(query) <= known, (what, labels_in(query) - known)


async def test_what_is_exported_is_shown(exported: Exported) -> None:
    """No metric of ours that no panel asks for: of a histogram its buckets or its count."""
    shown = set().union(*(names_in(query) for _, query in panels()))
    ours = {name for name in exported if name.startswith("colony_") and not name.endswith("_sum")}
    bases = {re.sub(r"_(bucket|count)$", "", name) for name in ours}
    assert {b for b in bases if not shown & {b, f"{b}_bucket", f"{b}_count"}} == set()


async def test_each_alert_says_what_to_do() -> None:
    """A summary, a description and a runbook in words, a severity; the dashboard finds its source."""
    for rule in rules():
        assert {"summary", "description", "runbook"} == rule["annotations"].keys(), rule["alert"]
        assert len(rule["annotations"]["runbook"]) > 20
        assert rule["labels"]["severity"] in ("page", "ticket")
    ids = [panel["id"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    assert len(ids) == len(set(ids))


def runbook() -> str:
    """All that tells an operator what to do: in the alerts, and at length."""
    short = [str(rule["annotations"]) for rule in rules()]
    return "\n".join([(DEPLOY / "README.md").read_text(), *short])


async def test_the_runbook_names_panels_that_are() -> None:
    """By their titles."""
    named = set(re.findall(r'panel\s"([^"]+)"', runbook()))
    assert named >= {"Cost", "Tokens"}
    assert named <= {title for title, _ in panels()}


async def test_the_runbook_names_commands_that_are() -> None:
    """Each `colony …` parses, with all of its options and arguments; "ID…" means several, N a number."""
    named = set(re.findall(r"`colony ([a-z][^`]*)`", runbook()))
    assert len(named) > 25
    for words in sorted(named):
        parse(re.sub(r"\bN$", "3", words.replace("ID…", "ID ID")).split())


def parse(words: list[str]) -> None:
    """As the command line does; nothing is run."""
    name, command = "colony", typer.main.get_command(app)
    context = command.context_class(command, info_name=name)
    while isinstance(command, TyperGroup):
        named, found, words = command.resolve_command(context, words)
        assert found is not None, words
        name, command = str(named), found
    command.make_context(name, words, parent=context)


def promtool(*arguments: str | Path) -> None:
    """Run Prometheus' own tool."""
    done = run(checker("promtool", "make promtool"), *map(str, arguments))
    assert done.returncode == 0, done.stdout


async def test_prometheus_reads_both_files() -> None:
    """Rules and configuration are valid to the real thing."""
    promtool("check", "rules", PROMETHEUS / "alerts.yml")
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


async def test_nothing_depends_on_what_jobs_are_called() -> None:
    """Their names are the operator's, or whoever's configuration of Prometheus it is."""
    chosen = [(rule["alert"], rule["expr"]) for rule in rules()] + list(panels())
    assert [what for what, query in chosen if re.search(r"\b(job|up)\s*(\{|=|!)", query)] == []


async def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    """With made-up series: fires for what is bad, once for a fleet that many tell of, and rests else."""
    models = 'colony_model_request_seconds_count{colony="c",model="m",outcome='
    series = {
        **{f'colony_nodes{{colony="c",instance="{i}"}}': "2x8 0x40" for i in "ab"},
        **{f'colony_workers{{colony="c",state="PENDING",instance="{i}"}}': "3x60" for i in "ab"},
        'colony_nodes{colony="timed"}': "2x8 0x40",
        'colony_timers{colony="timed"}': "1x60",
        'colony_nodes{colony="retired"}': "0x60",
        'colony_nodes_lost{colony="retired"}': "1x60",
        'colony_timers{colony="retired"}': "0x60",
        'colony_workers{colony="retired",state="COMPLETED"}': "5x60",
        'colony_workers{colony="retired",state="PENDING"}': "0x60",
        **{f'colony_workers_lost_total{{colony="c",instance="{i}"}}': "0x20 1x80" for i in "ab"},
        'colony_node_loop_lag_seconds{instance="a"}': "0.1x8 5x40",
        "colony_store_up": "1x60",
        f'{models}"ok"}}': "0+10x80",
        f'{models}"error"}}': "0+10x80",
    }
    fires = {
        "1m": [],
        "4m": ["ColonyLoopBlocked", "ColonyNoNodes c", "ColonyNoNodes timed"],
        "7m": [
            "ColonyLoopBlocked",
            "ColonyModelErrors c",
            "ColonyNoNodes c",
            "ColonyNoNodes timed",
            "ColonyQuarantine c",
        ],
        "22m": ["ColonyModelErrors c", "ColonyNotScraped"],
    }
    promtool("test", "rules", written(tmp_path, series, fires))


async def test_failures_and_time_outs_are_added_up(tmp_path: Path) -> None:
    """A fifth of each is two fifths of failures; a fifth in all is none to tell. However many tell of it."""
    ended = {
        "both": {"failed": 2, "timeout": 2, "success": 6},
        "few": {"failed": 1, "timeout": 1, "success": 8},
    }
    series = {
        f'colony_workers_ended_total{{colony="{c}",status="{s}",instance="{i}"}}': f"0+{n}x80"
        for c, by_status in ended.items()
        for s, n in by_status.items()
        for i in "ab"
    }
    series["colony_store_up"] = "1x80"
    fires = {"16m": ["ColonyWorkersFail both"]}
    promtool("test", "rules", written(tmp_path, series, fires))


async def test_each_message_that_is_set_aside_is_told(tmp_path: Path) -> None:
    """Also when a thousand are kept already, and for the first one that ever was."""
    series = {
        'colony_messages_rejected_total{colony="old"}': "5000x20 5001x120",
        'colony_messages_rejected_total{colony="new"}': "0x20 1x120",
        'colony_intake_refused_total{colony="intake"}': "0x20 1x120",
        'colony_messages_rejected_total{colony="quiet"}': "5000x80",
        'colony_messages_set_aside{colony="old"}': "1000x80",
        "colony_store_up": "1x120",
    }
    of = ("intake", "new", "old")
    fires = {
        "4m": [],
        "7m": [f"ColonyMessagesSetAside {colony}" for colony in of],
        "30m": [],
    }
    promtool("test", "rules", written(tmp_path, series, fires))


def written(folder: Path, series: dict[str, str], fires: dict[str, list[str]]) -> Path:
    """A test for promtool: which alerts fire of which colony at which time."""
    test = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname, colony) (ALERTS{alertstate="firing"})',
                "eval_time": when,
                "exp_samples": [_firing(*alert.split()) for alert in alerts],
            }
            for when, alerts in fires.items()
        ],
    }
    whole = {"rule_files": [str(PROMETHEUS / "alerts.yml")], "tests": [test]}
    (folder / "test.yml").write_text(json.dumps(whole))
    return folder / "test.yml"


def _firing(alert: str, colony: str = "") -> dict[str, object]:
    of = f',colony="{colony}"' if colony else ""
    return {"labels": f'{{alertname="{alert}"{of}}}', "value": 1}
