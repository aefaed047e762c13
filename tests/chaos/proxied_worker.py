"""A fake worker behind a proxy: listens on the port LISTEN and registers with the port SAY.

proxied_worker.py LISTEN SAY ARGUMENTS-OF-FAKE_WORKER...
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import grpc.aio


def main() -> None:
    listen, say = int(sys.argv[1]), int(sys.argv[2])
    add_port = grpc.aio.Server.add_insecure_port

    def add_insecure_port(self: grpc.aio.Server, address: str) -> int:
        add_port(self, f"127.0.0.1:{listen}")
        return say

    grpc.aio.Server.add_insecure_port = add_insecure_port  # type: ignore[method-assign]
    fake_worker = Path(__file__).parents[1] / "scheduler" / "fake_worker.py"
    sys.argv = [str(fake_worker), *sys.argv[3:]]
    runpy.run_path(str(fake_worker), run_name="__main__")


if __name__ == "__main__":
    main()
