"""``make upgrade``: upgrade a fleet under load, check it, and draw what was seen."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.upgrade.checks import check
from tests.upgrade.graph import draw
from tests.upgrade.journey import upgraded


async def run(steady_seconds: float, picture: Path) -> None:
    """Once. Raises `AssertionError` for whatever was lost or came twice; the picture is drawn in any case."""
    with tempfile.TemporaryDirectory() as folder:
        async with upgraded(Path(folder), steady_seconds) as seen:
            draw(seen, picture)
            print(await check(seen))
    print(f"see {picture}")


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.upgrade", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="of load before and after")
    parser.add_argument("--picture", type=Path, default=Path("deploy/upgrade.png"))
    options = parser.parse_args(argv)
    asyncio.run(run(options.seconds, options.picture))


if __name__ == "__main__":
    main(sys.argv[1:])
