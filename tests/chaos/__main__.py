"""``python -m tests.chaos --seed N --seconds S``: hurt a fleet for a while, and count. 1 when it is red.

The seed is printed first; without one it is chosen. What a run leaves (history, calls, effects, logs of
the nodes) is in the folder that is printed last, and kept when it is red.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.mutants import MUTANTS
from tests.chaos.run import run
from tests.chaos.schedule import schedule

SECONDS = 120.0


def main(arguments: list[str]) -> int:
    """One run, or several seeds one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=main.__doc__)
    parser.add_argument("--seed", type=int, help="the first seed; chosen at random without")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each run")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds, counting up")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="with a promise broken")
    parser.add_argument("--keep", action="store_true", help="keep the folder of a green run, too")
    options = parser.parse_args(arguments)
    logging.getLogger("colony").setLevel(
        logging.CRITICAL
    )  # the producer's: it is told in the history
    first = random.randrange(1, 1_000_000) if options.seed is None else options.seed
    red = []
    for seed in range(first, first + options.runs):
        print(f"seed {seed}, {options.seconds:g} s", flush=True)
        if not _one(seed, options):
            red.append(seed)
    if options.runs > 1:
        print(f"{options.runs - len(red)} of {options.runs} seeds green; red: {red or 'none'}")
    return 1 if red else 0


def _one(seed: int, options: argparse.Namespace) -> bool:
    folder = Path(tempfile.mkdtemp(prefix=f"colony-chaos-{seed}-"))
    env = {"TEST_MUTANT": options.mutant} if options.mutant else {}
    faults = schedule(seed, options.seconds)
    result = asyncio.run(run(folder, faults, options.seconds, seed=seed, env=env))
    print(result, flush=True)
    if result.breaches or options.keep:
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder)
    return not result.breaches


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
