"""What was seen during an upgrade, as a picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tests.upgrade.journey import Seen

mpl.use("Agg")

COLOURS = ("#1b6ca8", "#2a9d8f", "#e9a03b", "#c8553d")


def draw(seen: Seen, path: Path) -> None:
    """Accepted and ended, who ran how many, and how long the gateway's callers waited; with what was done."""
    figure, (counts, running, answers) = plt.subplots(
        3, 1, sharex=True, figsize=(11, 9), layout="constrained"
    )
    began = seen.samples[0].at
    times = [sample.at - began for sample in seen.samples]
    _counts(counts, seen, times)
    _running(running, seen, times)
    _answers(answers, seen, began)
    for axes in (counts, running, answers):
        axes.grid(alpha=0.25)
        axes.margins(x=0)
        for first, last, _ in seen.done:
            axes.axvspan(first - began, last - began, color="#bbbbbb", alpha=0.4, linewidth=0)
    for first, last, what in seen.done:
        middle = (first + last) / 2 - began
        counts.text(middle, counts.get_ylim()[1], f" {what}", rotation=50, fontsize=8, va="bottom")
    answers.set_xlabel("seconds")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _counts(axes: Axes, seen: Seen, times: list[float]) -> None:
    axes.plot(times, [s.accepted for s in seen.samples], color=COLOURS[0], label="accepted")
    axes.plot(
        times, [s.ended for s in seen.samples], color=COLOURS[1], label="ended, one report each"
    )
    axes.set_ylabel("workers, in all")
    axes.legend(loc="upper left", fontsize=8)


def _running(axes: Axes, seen: Seen, times: list[float]) -> None:
    first = {node.node: node.started_at for sample in seen.samples for node in sample.nodes}
    for number, name in enumerate(sorted(first, key=lambda name: first[name])):
        held = [
            next((float(node.running) for node in sample.nodes if node.node == name), float("nan"))
            for sample in seen.samples
        ]
        release = "old" if number < len(first) // 2 else "new"
        label = f"on node {number + 1} ({release})"
        axes.plot(times, held, color=COLOURS[number % len(COLOURS)], label=label)
    waiting = [s.waiting for s in seen.samples]
    axes.plot(times, waiting, color="black", linewidth=0.8, label="waiting for a slot")
    axes.set_ylim(bottom=-4)
    axes.set_ylabel("workers, now")
    axes.legend(loc="lower center", fontsize=8, ncols=5)


def _answers(axes: Axes, seen: Seen, began: float) -> None:
    times = [at - began for at, _ in seen.load.took]
    millis = [1000 * took for _, took in seen.load.took]
    axes.scatter(times, millis, s=9, color=COLOURS[3], label="spawn by HTTP, with its repeats")
    axes.set_yscale("log")
    axes.set_ylabel("answered after, ms")
    axes.legend(loc="upper left", fontsize=8)
