"""``python -m colony.bound OWNER SIGNAL MODULE ARGUMENTS…``: a module in a process that ends with its owner.

OWNER is the process that starts this one. When it ends, also by SIGKILL, the kernel sends the signal here.
Linux only; elsewhere only an owner that ends in order takes its processes along.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1


def end_with(owner: int, how: signal.Signals) -> None:
    """Have the kernel send a signal to this process when the owner ends. It survives exec.

    Raises SystemExit when the owner has ended already.
    """
    if not sys.platform.startswith("linux"):
        return
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, how) != 0:
        raise SystemExit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != owner:
        raise SystemExit("the process that started this one has ended: so does this one")


def main(argv: list[str]) -> None:
    """Bind this process to its owner, then be the module."""
    owner, how, module, *arguments = argv
    end_with(int(owner), signal.Signals[how])
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
