"""A plan that is merely rounded is accepted; one that computes something else is not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from zoofleet import _catalog
from zoofleet._catalog import ModelName
from zoofleet._values.tasks import Precision
from zoofleet._wire.kinds import TaskKind, kind_of
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.loading import make_runner
from zoofleet.worker.plan import Plan
from zoofleet.worker.plans.deviation import Deviation, compare
from zoofleet.worker.plans.examples import examples
from zoofleet.worker.plans.regions import region_paths
from zoofleet.worker.runner import Raw, Runner

SHAPES: Final = "SHAPES_V1"
MODELS: Final = (
    "resnet18@random",
    f"mobilenet_v3_small@{SHAPES}",
    f"lraspp_mobilenet_v3_large@{SHAPES}",
    f"ssdlite320_mobilenet_v3_large@{SHAPES}",
    "fasterrcnn_mobilenet_v3_large_320_fpn@random",
    f"raft_small@{SHAPES}",
)
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module", params=MODELS)
def runner(request: pytest.FixtureRequest) -> Runner[Any]:
    made = make_runner(ModelName.parse(request.param), torch.device("cpu"), WorkerConfig(device="cpu"))
    if made.name.weights == _catalog.RANDOM:
        _settle(made)
    return made


@torch.no_grad()
def _settle(runner: Runner[Any]) -> None:
    """Give the batch norms the statistics of the pictures, without which the inputs are lost among the means."""
    for norm in _norms(runner.module):
        nn.init.ones_(norm.bias)  # most values on ReLU's straight side
        norm.momentum = None
        norm.reset_running_stats()
        norm.train()
    _run(runner, runner.module)
    runner.module.eval()


@pytest.fixture(params=list(DTYPES))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return DTYPES[request.param]


class _Converted(nn.Module):
    """A region in another type, with float32 at its borders."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module.to(dtype)
        self.dtype = dtype
        self.hidden_size = getattr(module, "hidden_size", None)  # of RAFT's update

    def forward(self, *arguments: Any) -> Any:
        given = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(self.dtype), arguments)
        return pytree.tree_map_only(Tensor, Tensor.float, self.module(*given))


def _plan(runner: Runner[Any], dtype: torch.dtype, spoil: Callable[[nn.Module], None] = lambda _: None) -> nn.Module:
    """A copy of the model, spoiled, whose regions compute in a dtype."""
    plan: nn.Module = copy.deepcopy(runner.module)
    spoil(plan)
    for path in region_paths(kind_of(runner.name), plan):
        form = _Converted(plan.get_submodule(path), dtype)
        if not path:
            return form
        plan.set_submodule(path, form)
    return plan


def _compare(runner: Runner[Any], plan: nn.Module, coarsest: torch.dtype) -> Deviation:
    return compare(kind_of(runner.name), runner.module, plan, lambda module: _run(runner, module), coarsest)


def _run(runner: Runner[Any], module: nn.Module) -> Sequence[Raw]:
    """Run a model on the fixed pictures, in the runner's model's place."""
    plan = Plan("under test", Precision.FAST)
    runner.forms[plan] = module
    count = 4 if kind_of(runner.name) is TaskKind.CLASSIFY else 1
    batches = [examples(runner, (), count, is_upright=is_upright) for is_upright in (False, True)]
    return [raw for batch in batches for raw in runner.forward(batch, plan)]


def test_rounding_alone_is_accepted(runner: Runner[Any], dtype: torch.dtype) -> None:
    deviation = _compare(runner, _plan(runner, dtype), dtype)
    assert deviation.is_accepted, str(deviation)
    assert (deviation.error > 0) == (dtype != torch.float32)


def _convolution(model: nn.Module) -> nn.Conv2d:
    """An early convolution of the backbone or update: one filter of hundreds hides behind bfloat16's rounding."""
    update = getattr(model, "update_block", None)
    kept = update if isinstance(update, nn.Module) else getattr(model, "backbone", model)
    found = [m for m in kept.modules() if isinstance(m, nn.Conv2d) and m.groups == 1 and m.out_channels > 8]
    return found[len(found) // (2 if update else 8)]


def _strongest(convolution: nn.Conv2d) -> tuple[int, int]:
    """The two filters with the largest weights; trained models have dead ones."""
    first, second = convolution.weight.flatten(1).norm(dim=1).topk(2).indices.tolist()
    return first, second


def _lost_filter(model: nn.Module) -> None:
    convolution = _convolution(model)
    convolution.weight[_strongest(convolution)[0]] = 0


def _swapped_channels(model: nn.Module) -> None:
    convolution = _convolution(model)
    first, second = _strongest(convolution)
    convolution.weight[[first, second]] = convolution.weight[[second, first]]


def _other_sign(model: nn.Module) -> None:
    _convolution(model).weight.neg_()


def _dropped_layer(model: nn.Module) -> None:
    kept = getattr(model, "update_block", getattr(model, "backbone", model))
    found = [
        (parent, name)
        for parent in kept.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ReLU | nn.Hardswish)
    ]
    parent, name = found[len(found) // 2]
    setattr(parent, name, nn.Identity())


def _fold_without_mean(model: nn.Module) -> None:
    for norm in _norms(model):
        norm.running_mean.zero_()  # type: ignore[union-attr]


def _fold_of_variance_for_deviation(model: nn.Module) -> None:
    for norm in _norms(model):
        norm.running_var.square_()  # type: ignore[union-attr]


def _norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


FAULTS: Final = (_lost_filter, _swapped_channels, _other_sign, _dropped_layer)
FOLDS: Final = (_fold_without_mean, _fold_of_variance_for_deviation)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_are_refused(runner: Runner[Any], dtype: torch.dtype, fault: Callable[[nn.Module], None]) -> None:
    deviation = _compare(runner, _plan(runner, dtype, fault), dtype)
    assert not deviation.is_accepted, str(deviation)


@pytest.mark.parametrize("fault", FOLDS, ids=lambda fault: fault.__name__)
def test_wrong_folds_are_refused(runner: Runner[Any], dtype: torch.dtype, fault: Callable[[nn.Module], None]) -> None:
    if runner.name.weights != SHAPES or not _norms(runner.module):
        pytest.skip("has no batch norms, or untrained ones, whose mean is 0 and variance 1")
    deviation = _compare(runner, _plan(runner, dtype, fault), dtype)
    assert not deviation.is_accepted, str(deviation)


class _NotFinite(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.module(x)
        logits[0, 0] = torch.nan
        return logits


def test_what_is_not_a_number_is_refused() -> None:
    name = ModelName.parse(f"mobilenet_v3_small@{SHAPES}")
    runner = make_runner(name, torch.device("cpu"), WorkerConfig(device="cpu"))
    deviation = _compare(runner, _NotFinite(runner.module), torch.bfloat16)
    assert not deviation.is_accepted
    assert deviation.error == float("inf")
