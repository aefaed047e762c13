"""A process that builds plans, with a fault: `faulty_child.py FAULT REQUEST`."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from zoofleet.worker.plans.guard import end_with_parent

FAULT = sys.argv.pop(1)


def wrong(form: Any) -> Any:
    """Make a form stray, or take its time."""
    from torch import nn

    class _Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.form = form

        def forward(self, *arguments: Any) -> Any:
            outputs = self.form(*arguments)
            if FAULT == "strays":
                return outputs.flip(1)
            end = time.thread_time() + 0.1
            while time.thread_time() < end:
                pass
            return outputs

    return _Wrong()


def main() -> None:
    if FAULT == "hangs":
        end_with_parent()
        print(json.dumps({"begins": "compiled float32"}), flush=True)
        with Path(json.loads(sys.argv[1])["folder"], "..", "compiler").open("w") as file:
            compiler = subprocess.Popen(["sleep", "1000"])
            file.write(str(compiler.pid))
        compiler.wait()
    if FAULT == "pretends":  # a plan that is EXACT under another name, at once
        part: dict[str, Any] = {"path": "", "folds": [], "package": None}
        times = {"milliseconds": 1.0, "exact_milliseconds": 4.0, "shares": [0.25, 0.25]}
        trial = {"name": "folded float32", "is_valid": True, "parts": [part], **times}
        print(json.dumps({**trial, "deviation": 1e-6, "seconds": 0.0, "message": ""}), flush=True)
        return
    import zoofleet.worker.plans.child
    from zoofleet.worker.plans.rungs import Rung

    child: Any = zoofleet.worker.plans.child
    assemble = child.assemble
    if FAULT in ("strays", "slow"):
        child.assemble = lambda *arguments: wrong(assemble(*arguments))
    if FAULT == "crashes":
        child.ladder = lambda *_, **__: (Rung("folded float32", "float32"), Rung("bad", "float32"))
        trial = child._Builder.trial

        def crashing(builder: Any, rung: Rung) -> Any:
            if rung.name == "bad":
                os.abort()
            return trial(builder, rung)

        child._Builder.trial = crashing
    if FAULT == "compiles":  # one rung, since each takes a minute
        child.ladder = lambda *_, **__: (Rung("compiled float32", "float32", is_compiled=True),)
    child.main()


if __name__ == "__main__":
    main()
