"""Trains a network on the world: `python -m demo.train raft_small`.

A run that was stopped goes on from its last checkpoint when the same command is given again. The same seed, number of
threads and machine give the same weights.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.machine import Machine
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from demo import positive, whole_number
from demo.recipes import RECIPES, Batch, Recipe

_CHECKPOINT_S = 120.0
_REPORT_STEPS = 100


@dataclass(frozen=True, slots=True)
class Steps(Dataset[Batch]):
    """The batches of a recipe by step."""

    recipe: Recipe
    seed: int

    def __getitem__(self, step: int) -> Batch:
        return self.recipe.batch(self.seed, step)


class Run:
    """A network with its optimiser, and how far they have come.

    Args:
        recipe: what to train.
        seed: of the network's first weights and of the scenes.
        steps: how many in all.
        device: where.
    """

    def __init__(self, recipe: Recipe, seed: int, steps: int, device: torch.device) -> None:
        torch.manual_seed(seed)
        self.recipe, self.seed, self.steps, self.device = recipe, seed, steps, device
        self.model = recipe.build().train().to(device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(_groups(self.model, weight_decay=1e-4))
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, recipe.lr, total_steps=steps, pct_start=0.1, cycle_momentum=False
        )
        self.done = 0
        self.seconds = 0.0

    def step(self, inputs: Any, targets: Any) -> float:
        """Take one step; returns the loss."""
        inputs, targets = _moved(inputs, self.device), _moved(targets, self.device)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = self.recipe.loss(self.model, inputs, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self.done += 1
        return float(loss.detach())

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "recipe": self.recipe.name,
                "seed": self.seed,
                "steps": self.steps,
                "done": self.done,
                "seconds": self.seconds,
                "threads": torch.get_num_threads(),
                "machine": str(Machine.here()),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
            },
            partial,
        )
        partial.replace(path)

    def begin_with(self, path: Path) -> None:
        """Take the backbone of another network's checkpoint, layer by layer up to the first that differs.

        Raises:
            SystemExit: there is no such checkpoint, or that run has not ended.
        """
        if not path.exists():
            raise SystemExit(f"{self.recipe.name} begins with the backbone in {path}; train that one first")
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["done"] < state["steps"]:
            raise SystemExit(f"{path} has {state['done']} of {state['steps']} steps; finish that run first")
        for mine, other in zip(_backbone(self.model.state_dict()), _backbone(state["model"]), strict=False):
            if mine.shape != other.shape:
                break
            mine.copy_(other)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            SystemExit: it is of another run.
        """
        state = torch.load(path, map_location=self.device, weights_only=True)
        theirs = {key: state[key] for key in ("recipe", "seed", "steps")}
        ours = {"recipe": self.recipe.name, "seed": self.seed, "steps": self.steps}
        if theirs != ours:
            raise SystemExit(f"{path} is of a run with {theirs}, not {ours}; give another --out")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.done, self.seconds = state["done"], state["seconds"]


def _backbone(state: Mapping[str, Tensor]) -> list[Tensor]:
    return [tensor for name, tensor in state.items() if name.startswith(("backbone.", "features."))]


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights with decay; biases and norms without."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(part, device) for key, part in value.items()}
    return type(value)(_moved(part, device) for part in value)


def train(run: Run, checkpoint: Path, workers: int) -> None:
    """Take the steps that are left, with a progress display and a checkpoint every two minutes."""
    loader = DataLoader(
        Steps(run.recipe, run.seed),
        batch_size=None,
        sampler=range(run.done, run.steps),
        num_workers=workers,
    )
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
    )
    started, before = time.monotonic(), run.seconds
    saved, losses = started, []
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(run.recipe.name, total=run.steps, completed=run.done, loss=float("nan"))
        for inputs, targets in loader:
            losses.append(run.step(inputs, targets))
            now = time.monotonic()
            run.seconds = before + now - started
            if run.done % _REPORT_STEPS == 0 or run.done == run.steps:
                mean = sum(losses) / len(losses)
                losses.clear()
                progress.update(bar, completed=run.done, loss=mean)
                if not console.is_terminal:
                    console.print(f"step {run.done}/{run.steps}, {run.seconds:.0f} s, loss {mean:.4f}")
            if now - saved > _CHECKPOINT_S or run.done == run.steps:
                run.save(checkpoint)
                saved = now


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m demo.train", description=__doc__)
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, default=Path("out/training"), help="folder of checkpoints")
    parser.add_argument("--seed", type=whole_number, default=0)
    parser.add_argument("--steps", type=positive, help="other than the recipe's")
    parser.add_argument("--threads", type=positive, default=os.cpu_count(), help="of torch")
    parser.add_argument("--workers", type=whole_number, default=0, help="processes that make scenes; 0: none but this")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = RECIPES[options.recipe]
    run = Run(recipe, options.seed, options.steps or recipe.steps, torch.device(options.device))
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"cannot make {options.out}: {error}")
    checkpoint = options.out / f"{recipe.name}.pt"
    if checkpoint.exists():
        run.resume(checkpoint)
    elif recipe.start is not None:
        run.begin_with(options.out / f"{recipe.start}.pt")
    print(
        f"{recipe.name}: {run.steps} steps of {recipe.batch_size}, seed {run.seed}, from step {run.done}; "
        f"torch {torch.__version__}, {options.threads} threads, {run.device}, {Machine.here()}",
        flush=True,
    )
    train(run, checkpoint, options.workers)
    hint = "" if recipe.preset is None else f"; next: python -m demo.export {recipe.name}"  # else others begin with it
    print(f"{checkpoint}: {run.done} steps in {run.seconds:.0f} s{hint}")


if __name__ == "__main__":
    main()
