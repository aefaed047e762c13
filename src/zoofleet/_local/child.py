"""Runs a program that does not outlive its parent: `python -m zoofleet._local.child PARENT_PID SIGNAL PROGRAM ARGS...`.

The kernel sends SIGNAL to the program when the parent has ended in any way, SIGKILL included (PR_SET_PDEATHSIG in
prctl(2)). This request survives the exec. It is made in this process, and not between the parent's fork and exec, since
Python code is not safe there in a process with threads. The thread that starts the program must live as long as the
parent: the kernel sends the signal when that thread ends.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # from linux/prctl.h


def command(signal: int, program: list[str]) -> list[str]:
    """Return the command line that runs `program` so that it gets `signal` when this process has ended."""
    return [sys.executable, "-m", "zoofleet._local.child", str(os.getpid()), str(int(signal)), *program]


def main() -> None:
    """Ask the kernel for the signal, and become the program."""
    parent, signal, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal)
    if os.getppid() != parent:  # it ended before the kernel was asked
        sys.exit(1)
    os.execvp(program[0], program)  # noqa: S606 - a shell would come between


if __name__ == "__main__":
    main()
