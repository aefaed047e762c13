"""Every builder's network goes through torch.export with a batch of any size, and through torch.compile in one graph.

One model for most files of architectures is held against itself, on another batch size than it was exported with. All
others are built without numbers, for which the shapes say what there is to say; they take minutes, and run in CI alone.

Of detectors these are the backbone and the heads: what lies between them makes as many boxes as there are. INT8 models
hold packed weights, which torch.export does not take; they are exported as they are before the conversion.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.models import parts, reference
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from zoofleet import _catalog
from zoofleet.models import get_model
from zoofleet.models.detection import Detector
from zoofleet.models.detection.generalized_rcnn import GeneralizedRCNN

CATALOG = _catalog.builders()

SIDES = {"inception_v3": 75, "s3d": 224, "maxvit_t": 224, "ssd300_vgg16": 300}
"""Pixels a side where 64 are too few; transformers with a fixed size have 224."""


_SLOW = ("densenet121", "inception_v3", "maxvit_t", "mvit_v2_s", "s3d", "ssd300_vgg16", "swin3d_t")
QUICK = [
    name
    for name in reference.smallest_of_each_file()
    if parts.in_sample(name) and CATALOG[name].task != "quantization" and name not in _SLOW
]
OTHERS = [name for name in CATALOG if name not in QUICK]


def build(name: str) -> nn.Module:
    task = CATALOG[name].task
    options: dict[str, Any] = {"weights_backbone": None} if task in ("segmentation", "detection") else {}
    return get_model(name, **options).eval()


def inputs(name: str, batch: int) -> tuple[Any, ...]:
    plain = name.removeprefix("quantized_")
    side = SIDES.get(plain, 224 if plain.startswith(("vit", "mvit")) else 64)
    if CATALOG[name].task == "video":
        return (torch.randn(batch, 3, 14 if name == "s3d" else 16, side, side),)
    if CATALOG[name].task == "optical_flow":
        return (torch.randn(batch, 3, 128, 128), torch.randn(batch, 3, 128, 128), 2)
    return (torch.randn(batch, 3, side, side),)


def networks(name: str, model: nn.Module, batch: int) -> list[tuple[nn.Module, tuple[Any, ...]]]:
    """The parts that can be exported, each with what it is called with."""
    args = inputs(name, batch)
    if not isinstance(model, Detector):
        return [(model, args)]
    maps = list(model.backbone(*args).values())
    made: list[tuple[nn.Module, tuple[Any, ...]]] = [(model.backbone, args)]
    if not isinstance(model, GeneralizedRCNN):
        head: nn.Module = model.head  # type: ignore[assignment]
        return [*made, (head, (maps,))]
    made.append((model.rpn.head, (maps,)))  # type: ignore[arg-type]
    heads: Any = model.roi_heads
    made.append((nn.Sequential(heads.box_head, heads.box_predictor), (torch.randn(batch, 256, 7, 7),)))
    for branch in ("mask", "keypoint"):
        if getattr(heads, f"has_{branch}")():
            both = nn.Sequential(getattr(heads, f"{branch}_head"), getattr(heads, f"{branch}_predictor"))
            made.append((both, (torch.randn(batch, 256, 14, 14),)))
    return made


def exported(network: nn.Module, args: tuple[Any, ...]) -> nn.Module:
    batch = torch.export.Dim("batch", min=1, max=1024)
    shapes = pytree.tree_map(lambda value: {0: batch} if isinstance(value, Tensor) else None, args)
    return torch.export.export(network, args, dynamic_shapes=shapes, strict=False).module()


@pytest.fixture(scope="module", params=QUICK)
def quick(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    torch.manual_seed(0)
    return request.param, build(request.param)


def test_exported_networks_take_other_batches(quick: tuple[str, nn.Module]) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        pairs = zip(networks(*quick, 2), networks(*quick, 3), strict=True)
        for (network, args), (_, other) in pairs:
            program = exported(network, args)
            for given in (args, other):
                torch.testing.assert_close(_leaves(program(*given)), _leaves(network(*given)), rtol=1e-5, atol=1e-5)


def test_compiled_networks_are_one_graph(quick: tuple[str, nn.Module]) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for network, args in networks(*quick, 2):
            torch.compiler.reset()
            compiled = torch.compile(network, fullgraph=True, backend="eager")
            torch.testing.assert_close(_leaves(compiled(*args)), _leaves(network(*args)), rtol=1e-5, atol=1e-5)


@pytest.mark.rest
@torch.no_grad()
@pytest.mark.parametrize("name", OTHERS)
def test_all_other_networks_are_exported_and_compiled(name: str) -> None:
    # The compiler mistakes the constants that RAFT makes on a device without numbers.
    with torch.device("cpu" if CATALOG[name].task == "optical_flow" else "meta"):
        model = build(name)
        made = networks(name, model, 2)
        wider = networks(name, model, 3)
    for (network, args), (_, other) in zip(made, wider, strict=True):
        program = exported(network, args)
        assert _shapes(program(*other)) == _shapes(network(*other))
        torch.compiler.reset()
        compiled = torch.compile(network, fullgraph=True, backend="eager")
        assert _shapes(compiled(*args)) == _shapes(network(*args))


def _leaves(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def _shapes(output: Any) -> list[torch.Size]:
    return [leaf.shape for leaf in _leaves(output)]
