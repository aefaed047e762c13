"""Runs a program that does not outlive its parent: `python -m zoofleet._local.child PARENT_PID SIGNAL PROGRAM ARGS...`.

The kernel sends SIGNAL when the parent is gone, however it went, SIGKILL included. That outlasts the exec, and is set
here and not between the parent's fork and exec, where Python code is not safe among threads. The thread of the parent
that starts the program must live as long as the parent.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def command(signal: int, program: list[str]) -> list[str]:
    """The command line that runs `program` so that it gets `signal` when this process is gone."""
    return [sys.executable, "-m", "zoofleet._local.child", str(os.getpid()), str(int(signal)), *program]


def main() -> None:
    """Bind this process to its parent's life and become the program."""
    parent, signal, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal)
    if os.getppid() != parent:  # it went before the kernel knew
        sys.exit(1)
    os.execvp(program[0], program)  # noqa: S606 - a shell would come between


if __name__ == "__main__":
    main()
