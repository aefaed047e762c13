"""What of each model is compiled; compiled models equal EXACT as far as their arithmetic lets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoofleet import _catalog
from zoofleet._catalog import ModelName
from zoofleet._wire.kinds import TaskKind, kind_of
from zoofleet.models import get_model
from zoofleet.models.vision_transformer import VisionTransformer
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.loading import make_runner
from zoofleet.worker.plans.assembly import _Package
from zoofleet.worker.plans.child import _Builder
from zoofleet.worker.plans.examples import examples
from zoofleet.worker.plans.regions import Region, arranged, region_paths, regions
from zoofleet.worker.plans.rungs import Rung, compiler
from zoofleet.worker.plans.trial import Request

CATALOG = _catalog.builders()
PARTED = [name for name, info in CATALOG.items() if info.task in ("detection", "optical_flow")]


@pytest.mark.parametrize("name", PARTED)
def test_regions_have_all_weights(name: str) -> None:
    options: dict[str, Any] = {} if "raft" in name else {"weights_backbone": None}
    with torch.device("meta"):
        model = get_model(name, **options)
    kind = TaskKind.ESTIMATE_FLOW if "raft" in name else TaskKind.DETECT
    paths = region_paths(kind, model)
    homes = {key: [path for path in paths if key.startswith(f"{path}.")] for key, _ in model.named_parameters()}
    assert {key: found for key, found in homes.items() if len(found) != 1} == {}


@pytest.mark.filterwarnings("ignore:`isinstance:FutureWarning")  # torch's decompositions, of torch's own trees
def test_attention_multiplies_by_its_weights_as_they_are() -> None:
    model = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=10
    ).eval()
    nn.init.normal_(model.get_parameter("heads.head.weight"))
    pictures = torch.randn(3, 3, 32, 32)
    (region,) = regions(TaskKind.CLASSIFY, model, lambda: model(pictures[:1]))
    program = region.export(model, torch.float32)
    torch.testing.assert_close(program.module()(*arranged((pictures,))), model(pictures), rtol=1e-4, atol=1e-5)
    nodes = program.run_decompositions().graph.nodes
    products = [node.args for node in nodes if node.target is torch.ops.aten.addmm.default]
    assert len(products) == 2 * 4 + 1  # in each layer two projections and the MLP; and the head
    # Nothing but attention itself multiplies matrices for each item.
    assert sum(node.target is torch.ops.aten.bmm.default for node in nodes) == 2 * 2


class _Branches(nn.Module):
    def forward(self, maps: list[Tensor], x: Tensor) -> dict[str, Tensor]:
        return {"sum": maps[0].sum(1) + x, "product": maps[1] * 2}


def test_a_region_takes_lists_and_any_length_of_what_varies() -> None:
    x = torch.rand(1, 4, 6, 8)
    axes = {0: (1, 64), 2: (1, 64), 3: (1, 64)}
    region = Region("", ([x, x[:, :, ::2, ::2]], x[:, 0]), (axes, axes, {0: (1, 64), 1: (1, 64), 2: (1, 64)}))
    program = region.export(_Branches(), torch.float32)
    wide = torch.rand(3, 4, 10, 12)
    given = arranged(([wide, wide[:, :, ::2, ::2]], wide[:, 0]))
    torch.testing.assert_close(program.module()(*given), _Branches()(*given))
    assert given[0][1].is_contiguous(memory_format=torch.channels_last)


def test_what_is_compiled_leaves_nothing_at_all_to_the_region() -> None:
    head = nn.Linear(4, 2)
    package = object.__new__(_Package)  # without a loader: compiled code takes one box or more
    package._region = head
    assert package(torch.zeros(0, 4, dtype=torch.bfloat16)).shape == (0, 2)


COMPILED = (
    "lraspp_mobilenet_v3_large@SHAPES_V1",
    "ssdlite320_mobilenet_v3_large@SHAPES_V1",
    "raft_small@SHAPES_V1",
)


@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
@pytest.mark.rest
@pytest.mark.timeout(900)  # each compiles for minutes
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # of inductor's own
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_models_equal_exact(name: str, tmp_path: Path) -> None:
    """At two sizes, and in batches of several items and of one: `_Builder` compares on both."""
    runner = make_runner(ModelName.parse(name), torch.device("cpu"), WorkerConfig(device="cpu"))
    count = 4 if kind_of(runner.name) is TaskKind.CLASSIFY else 2
    items, others = (examples(runner, (), n, is_upright=n == 1) for n in (count, 1))
    builder = _Builder(runner, items, others, Request(name, (), "cpu", torch.get_num_threads(), str(tmp_path)))
    trial = builder.trial(Rung("compiled bfloat16", "bfloat16", is_compiled=True))
    assert trial.is_valid, trial.message
    assert {part.path for part in trial.parts} == set(region_paths(kind_of(runner.name), runner.module))
    assert all((tmp_path / str(part.package)).is_dir() for part in trial.parts)
