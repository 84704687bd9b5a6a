"""The README's section on HTTP does what it says, line by line."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from colony.testing import Fleet
from tests.gateway.kit import free_port

pytestmark = [pytest.mark.fleet, pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")]

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COLONY = '#!/bin/sh\nexec "$PYTHON" -m colony.cli "$@"\n'
READY = "until curl -sf http://127.0.0.1:8080/readyz > /dev/null; do sleep 0.1; done\n"


async def test_the_lines_of_the_section_on_http(tmp_path: Path) -> None:
    """A gateway, a token, a worker that is spawned once, and the events that tell of it."""
    section = README.partition("\n## Over HTTP\n")[2].partition("\n## ")[0]
    [block] = re.findall(r"^```sh\n(.*?)^```$", section, re.M | re.S)
    first, _, rest = block.partition("\n")
    assert first == "colony gateway &"
    port = free_port()
    script = tmp_path / "lines.sh"
    command = tmp_path / "colony"
    command.write_text(COLONY)
    command.chmod(0o755)
    text = first + "\nserver=$!\n" + READY + rest.replace("curl -s -N", "curl -sN -m 2")
    script.write_text(f"{text}\nkill $server; wait $server\n".replace("8080", str(port)))
    async with Fleet("colony.examples.survey:colony") as fleet:
        env = {
            **os.environ,
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "COLONY_REDIS_URL": fleet.redis_url,
            "COLONY_GATEWAY_PORT": str(port),
        }
        process = await asyncio.create_subprocess_exec(
            "bash", str(script), env=env, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        try:
            out, _ = await asyncio.wait_for(process.communicate(), 60)
        finally:
            with suppress(ProcessLookupError):  # nobody is left: as it should be
                os.killpg(process.pid, signal.SIGKILL)
        answer, end = json.JSONDecoder().raw_decode(out.decode())
        [worker_id] = answer["worker_ids"]
        assert await fleet.runtime.get_worker(worker_id) is not None
        assert f'"{worker_id}"' in out.decode()[end:]
        assert "event: execution_accepted" in out.decode()[end:]
