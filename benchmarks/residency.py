"""The zoo under a memory budget: every model answers in turn, then random switches between the smaller ones.

    python benchmarks/residency.py --budget-gib 6 --switches 500 --progress residency.jsonl

Runs a worker's residency and pipeline in this process, on the CPU, with `@random` weights and one small item a use.
Each line of the progress file is a model that has answered; models that stand there are left out the next time. At the
end all models are unloaded, and the resident memory is compared with what it was once a first model had come and gone.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import random
import time
from pathlib import Path
from typing import NoReturn

import psutil
import torch
from PIL import Image

from zoofleet import _catalog
from zoofleet._catalog import ModelName
from zoofleet._values.tasks import Precision
from zoofleet._wire.kinds import kind_of
from zoofleet.errors import ZoofleetError
from zoofleet.worker import WorkerConfig
from zoofleet.worker.items import DecodedItem
from zoofleet.worker.pipeline import Pipeline, Spec
from zoofleet.worker.residency import Residency
from zoofleet.worker.runners import runner_type

SIDE = 128
"""Pixels a side of each image."""


def _lost(error: BaseException) -> NoReturn:
    raise error


class Zoo:
    """A worker's models and pipeline."""

    def __init__(self, budget: int) -> None:
        config = WorkerConfig(schedulers=(), device="cpu", threads=1, decode_threads=1)
        self.models = Residency(torch.device("cpu"), budget, config)
        self.pipeline = Pipeline(config, self.models, _lost)
        self.answers = 0

    async def answer(self, builder: str) -> None:
        """Have a model answer one item."""
        name = ModelName.parse(f"{builder}@random")
        kind = runner_type(name)
        accepted = {field.name for field in dataclasses.fields(kind.options)}
        defaults = {option.name: option.default for option in kind_of(name).options if option.name in accepted}
        options = kind.options(**defaults)
        item = DecodedItem([Image.new("RGB", (SIDE, SIDE), "teal")] * kind.window(options).size)
        outcome = await self.pipeline.run(Spec(name, options, Precision.EXACT), item, lambda outcome, _: outcome)
        if isinstance(outcome, ZoofleetError):
            raise outcome
        self.answers += 1

    async def unload(self) -> None:
        """Unload all models."""
        for resident in self.models.residents:
            await self.models.unload(resident.name)


def resident_mb() -> float:
    """Resident memory of this process in MB."""
    return psutil.Process().memory_info().rss / 1e6


async def run(arguments: argparse.Namespace) -> None:
    """Do all that is asked for."""
    zoo = Zoo(int(arguments.budget_gib * 2**30))
    await zoo.answer("resnet18")
    await zoo.unload()
    began = resident_mb()
    done = set()
    if arguments.progress.exists():
        done = {json.loads(line)["model"] for line in arguments.progress.read_text().splitlines()}
    for builder in sorted(_catalog.builders(), key=lambda name: _catalog.builders()[name].num_params):
        if builder in done or arguments.seconds < time.process_time():
            continue
        start = time.process_time()
        await zoo.answer(builder)
        row = {
            "model": builder,
            "cpu_s": round(time.process_time() - start, 2),
            "rss_mb": round(resident_mb()),
            "weights_mb": round(sum(r.memory_bytes for r in zoo.models.residents) / 1e6),
            "activation_mb": round(zoo.models.activations.most(ModelName.parse(f"{builder}@random")) / 1e6),
        }
        with arguments.progress.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)
    small = [name for name, info in _catalog.builders().items() if info.num_params < arguments.most_parameters]
    zoo.models.budget = int(arguments.switch_budget_mib * 2**20)
    draw = random.Random(0)
    for number in range(arguments.switches):
        await zoo.answer(draw.choice(small))
        if number % 50 == 49:
            print(f"{number + 1} switches: {resident_mb():.0f} MB, {len(zoo.models.residents)} loaded", flush=True)
    await zoo.unload()
    ended = resident_mb()
    print(f"{zoo.answers} answers; resident {began:.0f} MB at first, {ended:.0f} MB at last: {ended / began - 1:+.1%}")
    zoo.pipeline.close()


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget-gib", type=float, default=6.0, help="of the models' weights")
    parser.add_argument("--progress", type=Path, default=Path("residency.jsonl"))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="CPU seconds for the first part")
    parser.add_argument("--switches", type=int, default=500)
    parser.add_argument("--switch-budget-mib", type=float, default=100.0, help="in the second part")
    parser.add_argument("--most-parameters", type=float, default=15e6, help="of the models of the second part")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
