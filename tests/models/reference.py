"""The facts in `tests/data/zoo` and how a model is held against them.

Most facts are the reference's, torchvision's; `tests/models/facts.py` writes those of builders that it lacks. A summary
of an output tensor has its shape, mean, population std and k = min(n, 64) samples of the flattened tensor, at
`i * (n - 1) // (k - 1)`. Detectors with random weights give many scores within 1e-4 of each other, so their rows are
matched one to one first, by all that the summary knows of a row, and only then compared.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.models import seeded
from torch import Tensor, nn

from zoofleet import _catalog
from zoofleet.models import get_model, get_model_builder, list_models

ZOO = Path(__file__).parents[1] / "data" / "zoo"

Summary = Mapping[str, Any]

RTOL, ATOL_OF_STD = 1e-3, 1e-4
"""What another CPU costs, the second in units of the summary's std."""

MAX_UNMATCHED = 2
"""Detections of an image that may differ: those at the cut of the best 20."""


def load(path: str) -> Any:
    return json.loads((ZOO / path).read_text())


@dataclass(frozen=True)
class Built:
    """A model with the weights of `seeded.fill`, and what it was like before."""

    name: str
    model: nn.Module
    manifest: list[list[Any]]
    seed0_sha256: str


def build(name: str, **arguments: Any) -> Built:
    """The model as the reference built it, but for these arguments, in eval mode."""
    torch.manual_seed(0)
    model = get_model(name, **arguments_of(name) | arguments).eval()
    state = model.state_dict()
    digest = hashlib.sha256()
    for key, tensor in state.items():
        digest.update(key.encode() + tensor.numpy().tobytes())
    manifest = describe(state)
    _fill(state)
    return Built(name, model, manifest, digest.hexdigest())


def _fill(state: dict[str, Tensor]) -> None:
    """`seeded.fill` on two cores: each tensor is filled on its own, and most of a large model's time goes there."""
    halves = [dict(list(state.items())[half::2]) for half in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(seeded.fill, halves))


def arguments_of(name: str) -> dict[str, Any]:
    """What the reference built that model with."""
    task = _catalog.builders()[name].task
    options: dict[str, Any] = {"weights": None}
    if task in ("segmentation", "detection"):
        options["weights_backbone"] = None
    if task == "detection":
        box = "box_" if "rcnn" in name else ""
        options |= {f"{box}score_thresh": 0.0, f"{box}detections_per_img": 20}
    if re.search("googlenet|inception", name):
        options["init_weights"] = True
    return options


def smallest_of_each_file() -> list[str]:
    """One builder for each file of architectures, from the smallest to the largest."""
    smallest: dict[str, str] = {}
    for name in sorted(list_models(), key=lambda n: _catalog.builders()[n].num_params):
        smallest.setdefault(get_model_builder(name).__module__, name)
    return list(smallest.values())


def describe(state: Mapping[str, Any]) -> list[list[Any]]:
    """A state dict in the words of the manifests: key, dtype, shape and, if quantized, scheme."""
    rows: list[list[Any]] = []
    for key, value in state.items():
        if isinstance(value, Tensor):
            scheme = [str(value.qscheme()).removeprefix("torch.")] if value.is_quantized else []
            rows.append([key, str(value.dtype).removeprefix("torch."), list(value.shape), *scheme])
        elif isinstance(value, torch.dtype):
            rows.append([key, "dtype", str(value)])
        else:
            rows.append([key, type(value).__name__, [type(v).__name__ for v in value]])
    return rows


def inputs(kind: str) -> tuple[Any, ...]:
    """The positional arguments that a summary's `input.kind` names."""
    pictures = [
        torch.from_numpy(getattr(seeded, what)(*map(int, numbers.split(","))))
        for what, numbers in re.findall(r"(image|clip)\(([\d,]+)\)", kind)
    ]
    if kind.startswith("["):
        return ([p.permute(2, 0, 1).float() / 255 for p in pictures],)
    (picture,) = pictures
    if kind.endswith("first and second frame"):
        frames = picture.permute(0, 3, 1, 2).float() / 127.5 - 1  # (2, 3, H, W)
        return frames[:1], frames[1:]
    scaled = (picture.float() / 255 - 0.45) / 0.225
    if kind.endswith("N C T H W"):
        return (scaled.permute(3, 0, 1, 2)[None],)
    assert kind.endswith("NCHW"), kind
    return (scaled.permute(2, 0, 1)[None],)


def summarize(output: Any) -> Any:
    """Make the summary of an output of any task, as `assert_matches` takes it."""
    if isinstance(output, Mapping):
        return {key: summarize(value) for key, value in output.items()}
    if isinstance(output, list):
        # Detections of several images, or RAFT's predictions, of which the last counts.
        return summarize(output[-1]) if isinstance(output[-1], Tensor) else [summarize(value) for value in output]
    flat = output.flatten().double()
    samples = [float(f"{value:.7g}") for value in flat[sampled(flat.numel())].tolist()]  # what float32 can tell apart
    return {
        "shape": list(output.shape),
        "mean": flat.mean().item(),
        "std": flat.std(correction=0).item(),
        "samples": samples,
    }


def assert_matches(output: Any, summary: Any) -> None:
    """Compare an output of any task with its summary."""
    if isinstance(summary, list):  # detections of several images
        assert len(output) == len(summary)
        for detections, expected in zip(output, summary, strict=True):
            assert_detections_match(detections, expected)
    elif "samples" in summary:  # one tensor, or the last of RAFT's predictions
        assert_tensor_matches(output[-1] if isinstance(output, list) else output, summary)
    else:
        assert list(output) == list(summary)
        for key, expected in summary.items():
            assert_tensor_matches(output[key], expected)


def assert_tensor_matches(tensor: Tensor, summary: Summary) -> None:
    assert list(tensor.shape) == summary["shape"]
    flat, atol = tensor.flatten().double(), ATOL_OF_STD * summary["std"]
    assert flat.mean().item() == _near(summary["mean"], summary)
    assert flat.std(correction=0).item() == _near(summary["std"], summary)
    expected = torch.tensor(summary["samples"], dtype=torch.double)
    torch.testing.assert_close(flat[sampled(flat.numel())], expected, rtol=RTOL, atol=atol)


def _near(value: float, summary: Summary) -> _Near:
    return _Near(value, RTOL * abs(value) + ATOL_OF_STD * summary["std"])


@dataclass(frozen=True, eq=False)
class _Near:
    value: float
    tolerance: float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and abs(other - self.value) <= self.tolerance


def sampled(n: int) -> list[int]:
    """Indices of a summary's samples in a flattened tensor of n elements."""
    k = min(n, 64)
    return [i * (n - 1) // (k - 1) for i in range(k)] if k > 1 else [0] * k


def assert_detections_match(detections: Mapping[str, Tensor], summary: Mapping[str, Summary]) -> None:
    """Compare one image's detections with their summary as sets: equal scores may come in another order."""
    assert set(detections) == set(summary)
    for key, expected in summary.items():
        assert list(detections[key].shape) == expected["shape"], key
    assert_tensor_matches(detections["scores"].sort(descending=True).values, summary["scores"])

    known = {key: _by_row(expected) for key, expected in summary.items()}
    rows = len(detections["scores"])
    fits = [
        [
            all(_fits(detections[key][mine], known[key].get(row, {}), summary[key]) for key in summary)
            for mine in range(rows)
        ]
        for row in range(rows)
    ]
    unmatched = rows - _matching(fits)
    assert unmatched <= MAX_UNMATCHED, f"{unmatched} of {rows} detections have no counterpart"


def _by_row(summary: Summary) -> dict[int, dict[int, float]]:
    """The samples by row, and by index in that row's flattened tensor."""
    size = math.prod(summary["shape"])
    stride = size // summary["shape"][0]
    rows: dict[int, dict[int, float]] = {}
    for index, value in zip(sampled(size), summary["samples"], strict=True):
        rows.setdefault(index // stride, {})[index % stride] = value
    return rows


def _fits(row: Tensor, known: Mapping[int, float], summary: Summary) -> bool:
    if not known:
        return True
    expected = torch.tensor(list(known.values()), dtype=torch.double)
    found = row.flatten()[list(known)].double()
    return torch.allclose(found, expected, rtol=RTOL, atol=ATOL_OF_STD * summary["std"])


def _matching(fits: Sequence[Sequence[bool]]) -> int:
    """Size of the largest one-to-one matching (Kuhn's augmenting paths)."""
    taken: dict[int, int] = {}

    def place(row: int, seen: set[int]) -> bool:
        for mine, good in enumerate(fits[row]):
            if good and mine not in seen:
                seen.add(mine)
                if mine not in taken or place(taken[mine], seen):
                    taken[mine] = row
                    return True
        return False

    return sum(place(row, set()) for row in range(len(fits)))
