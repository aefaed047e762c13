"""Ends a process that builds plans with the worker that started it, however that ends. Loads nothing heavy."""

from __future__ import annotations

import os
import signal
import threading

__all__ = ["end_with_parent"]


def end_with_parent() -> None:
    """Have this process, and its compilers, killed once its standard input closes, which the worker holds open."""
    threading.Thread(target=_wait, name="guard", daemon=True).start()


def _wait() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)  # the worker gave it a process group of its own
