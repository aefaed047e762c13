"""Random faults on a real cluster: `python -m tests.chaos.run --seconds 600 --seed 7`; exit code 1 on any violation."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

from tests.chaos.cluster import Cluster
from tests.chaos.faults import Chaos
from tests.chaos.final import CALM, FORGET, Inspection
from tests.chaos.load import Client, Ledger

_CLIENTS: Final = 6
_OVERHEAD: Final = 180.0
"""Seconds that starting, ending and checking may take beside the faults and the waiting; after that it is a failure."""
_SHOWN: Final = 40
_KIND: Final = re.compile(r"\b[A-Z][A-Z ]+(?=:)")
"""The word with which each violation starts, after the plan that it is about."""


async def run(seconds: float, seed: int, directory: Path, mean_pause: float) -> bool:
    """Run a cluster under faults; prints a report and returns whether nothing was violated."""
    rngs = {name: random.Random(f"{seed} {name}") for name in ("cluster", "faults", "final")}
    cluster, ledger = Cluster(directory, rngs["cluster"]), Ledger()
    chaos = Chaos(cluster, rngs["faults"], mean_pause)
    try:
        async with asyncio.timeout(seconds + CALM + FORGET + _OVERHEAD):
            await cluster.start()
            clients = [Client(n, cluster, ledger, random.Random(f"{seed} client {n}")) for n in range(_CLIENTS)]
            loads = [asyncio.create_task(client.run()) for client in clients]
            await chaos.run(seconds)
            print("the faults have stopped", flush=True)
            for load in loads:
                load.cancel()
            for ended in await asyncio.gather(*loads, return_exceptions=True):
                if isinstance(ended, Exception):
                    ledger.violations.append(f"HARNESS: a client failed: {ended!r}")
            await Inspection(cluster, ledger, rngs["final"]).run()
    except TimeoutError:
        ledger.violations.append("HANG: the run did not end within its bounds")
    finally:
        await cluster.close()
    violations = list(dict.fromkeys(cluster.violations + ledger.violations))
    _report(seed, chaos, cluster, ledger, violations)
    return not violations


def _report(seed: int, chaos: Chaos, cluster: Cluster, ledger: Ledger, violations: list[str]) -> None:
    def line(name: str, counts: dict[str, int]) -> None:
        print(f"{name}: " + ", ".join(f"{what} {count}" for what, count in sorted(counts.items())))

    print(f"seed: {seed}")
    line(f"faults: {chaos.counts.total()}", chaos.counts)
    line("restarts", cluster.restarts)
    line(f"jobs begun: {len(ledger.records)}", ledger.counts)
    print(f"Redis emptied: {len(cluster.emptyings)} times")
    print(f"longest stall: {ledger.longest_stall:.1f} s without a result while somebody waited for one")
    line(f"violations: {len(violations)}", Counter(kind for text in violations for kind in _KIND.findall(text)[:1]))
    for violation in violations[:_SHOWN]:
        print(f"  {violation}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long there are faults (default: 600)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="chooses the faults; the time by default")
    parser.add_argument("--pause", type=float, default=1.5, help="mean seconds between faults (default: 1.5)")
    arguments = parser.parse_args()
    print(f"{arguments.seconds:g} s of faults, --seed {arguments.seed} --pause {arguments.pause:g}", flush=True)
    # Should even the bounds of `run` fail: then the kernel kills the children with us.
    faulthandler.dump_traceback_later(arguments.seconds + CALM + FORGET + 2 * _OVERHEAD, exit=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs in the background ignores it
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    directory = Path(tempfile.mkdtemp(prefix="zoofleet-chaos-"))
    try:
        right = asyncio.run(run(arguments.seconds, arguments.seed, directory, arguments.pause))
    except KeyboardInterrupt:
        print(f"interrupted; logs are in {directory}")
        return 130
    if right:
        shutil.rmtree(directory)
    else:
        print(f"logs are in {directory}")
    faulthandler.cancel_dump_traceback_later()
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
