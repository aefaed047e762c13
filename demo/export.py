"""Makes a trained network a weight set of the zoo: `python -m demo.export raft_small --evaluation out/raft_small.json`.

Writes `demo/weights/<builder>-shapes-<hash>.safetensors` in half precision and a card beside it, and enters the set as
SHAPES_V1 in the catalog. The accuracy comes from a file of `zoofleet evaluate --json` on a held-out dataset; since that
takes an entered set, export twice: first without `--evaluation`, then with it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from demo.recipes import RECIPES, Recipe
from zoofleet import _catalog
from zoofleet._evaluate import Evaluation

_ROOT: Final = Path(__file__).parents[1]
_WEIGHTS: Final = Path("demo/weights")
_CATALOG: Final = _ROOT / "src" / "zoofleet" / "_catalog" / "weights.json"
_MEMBER: Final = "SHAPES_V1"
_DATASET: Final = "Shapes"
_INPUT: Final = {"classification": (1, 3, 128, 128), "segmentation": (1, 3, 240, 320), "optical_flow": (1, 3, 240, 320)}
_PERCENT: Final = {"acc@1": "acc@1", "acc@5": "acc@5", "box_AP": "box_map", "miou": "miou", "pixel_acc": "pixel_acc"}
"""Names of metrics: those of evaluations, and the catalog's, which are in percent."""


def write_file(recipe: Recipe, state: Mapping[str, Tensor]) -> Path:
    """Write a state dict in half precision in place of older ones; gives its path within the repository."""
    packed = {name: tensor.contiguous() for name, tensor in state.items()}  # trained in channels-last memory
    content = save({name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in packed.items()})
    path = _WEIGHTS / f"{recipe.name}-shapes-{hashlib.sha256(content).hexdigest()[:8]}.safetensors"
    for old in (_ROOT / _WEIGHTS).glob(f"{recipe.name}-shapes-*.safetensors"):
        old.unlink()
    (_ROOT / path).write_bytes(content)
    return path


def _giga_operations(recipe: Recipe, model: nn.Module) -> float:
    """Multiplications with additions of one forward pass, in 1e9."""
    task = _catalog.builders()[recipe.name].task
    inputs: list[Any] = [[torch.rand(3, 240, 320)]] if task == "detection" else [torch.rand(_INPUT[task])]
    if task == "optical_flow":
        inputs *= 2
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.eval()(*inputs)
    return round(float(counter.get_total_flops()) / 2e9, 3)


def _row(recipe: Recipe, path: Path, model: nn.Module, evaluation: Evaluation | None) -> dict[str, Any]:
    published = next(row for row in _catalog.weights(recipe.name) if row.default)
    metrics = {} if evaluation is None else evaluation.metrics
    shown = {theirs: round(100 * metrics[ours], 2) for ours, theirs in _PERCENT.items() if ours in metrics}
    if "epe" in metrics:
        shown["epe"] = round(metrics["epe"], 4)
    meta = {
        "num_params": sum(p.numel() for p in model.parameters()),
        "min_size": published.meta["min_size"],
        "recipe": f"{_WEIGHTS}/{recipe.name}.md",
        "_metrics": {_DATASET: shown},
        "_ops": _giga_operations(recipe, model),
        "_file_size": round((_ROOT / path).stat().st_size / 2**20, 3),
    }
    return {
        "builder": recipe.name,
        "enum": published.enum,
        "member": _MEMBER,
        "default": False,
        "url": path.as_posix(),
        "transforms": dict(recipe.preset or {}),
        "meta": meta | ({"categories": recipe.categories} if recipe.categories else {}),
    }


def enter(row: Mapping[str, Any]) -> None:
    """Put a row into the catalog, after the other sets of its builder or in place of an older one."""
    rows = json.loads(_CATALOG.read_text(encoding="utf-8"))
    rows = [old for old in rows if (old["builder"], old["member"]) != (row["builder"], row["member"])]
    after = max(i for i, old in enumerate(rows) if old["builder"] == row["builder"]) + 1
    rows.insert(after, row)
    _CATALOG.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _card(recipe: Recipe, path: Path, run: Mapping[str, Any], evaluation: Evaluation) -> str:
    accuracy = "\n".join(f"| {name} | {value:.4f} |" for name, value in evaluation.metrics.items() if "_AR" not in name)
    begins = f", starting with the backbone of `{recipe.start}`" if recipe.start else ""
    command = f"python -m demo.train {recipe.name} --seed {run['seed']} --threads {run['threads']}"
    return f"""# {recipe.name}, {_MEMBER}

`{path.name}`: {(_ROOT / path).stat().st_size / 1e6:.1f} MB,
safetensors in half precision, written {datetime.now(UTC):%Y-%m-%d}.

- Data: the world in `demo/world.py`, training seed {run["seed"]}; every step sees new scenes.
- Recipe: `{recipe.name}` in `demo/recipes.py`{begins}:
  {run["steps"]} steps of {recipe.batch_size} with AdamW, one cycle up to a learning rate of {recipe.lr:g},
  bfloat16 autocast.
- Time: `{command}` took {run["seconds"] / 60:.0f} minutes on
  {run["machine"]}.
- Accuracy on {evaluation.item_count} held-out items of `python -m demo.dataset`, through a cluster,
  by `zoofleet evaluate` {evaluation.version} on {evaluation.date:%Y-%m-%d}:

| metric | value |
| --- | --- |
{accuracy}
"""


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("builder", choices=[name for name, recipe in RECIPES.items() if recipe.preset is not None])
    parser.add_argument("--out", type=Path, default=Path("out/training"), help="folder of checkpoints")
    parser.add_argument("--evaluation", type=Path, help="a file of `zoofleet evaluate --json`")
    options = parser.parse_args()
    recipe = RECIPES[options.builder]
    run = torch.load(options.out / f"{recipe.name}.pt", map_location="cpu", weights_only=True)
    if run["done"] < run["steps"]:
        parser.error(f"{recipe.name} has {run['done']} of {run['steps']} steps; finish it with demo.train")
    evaluation = None if options.evaluation is None else Evaluation.from_json(options.evaluation)
    if evaluation is not None and evaluation.model != f"{recipe.name}@{_MEMBER}":
        parser.error(f"{options.evaluation} is of {evaluation.model}, not of {recipe.name}@{_MEMBER}")
    path = write_file(recipe, run["model"])
    model = recipe.build()
    model.load_state_dict(run["model"])
    enter(_row(recipe, path, model, evaluation))
    if evaluation is not None:
        card = _ROOT / _WEIGHTS / f"{recipe.name}.md"
        card.write_text(_card(recipe, path, run, evaluation), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
