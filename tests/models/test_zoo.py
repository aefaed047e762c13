"""Every builder in the catalog equals the reference: keys, shapes, initialisation, outputs; and keeps no state."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from tests.models import parts, reference
from tests.models.reference import Built
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from zoofleet import _catalog
from zoofleet.models import get_model_builder, list_models


def _smallest_of_each_file() -> list[str]:
    """One model for each file of architectures."""
    smallest: dict[str, str] = {}
    for name in sorted(list_models(), key=lambda n: _catalog.builders()[n].num_params):
        smallest.setdefault(get_model_builder(name).__module__, name)
    return list(smallest.values())


@pytest.fixture(scope="module", params=parts.builders(parts.chosen()))
def built(request: pytest.FixtureRequest) -> Built:
    return reference.build(request.param)


def test_state_dict_equals_the_manifest(built: Built) -> None:
    assert built.manifest == reference.load(f"state_dicts/{built.name}.json")


def test_initialisation_draws_the_same_numbers(built: Built) -> None:
    facts = reference.load("builders.json")[built.name]
    assert (len(built.manifest), built.seed0_sha256) == (facts["tensors"], facts["seed0_sha256"])


def test_number_of_parameters_equals_the_catalog(built: Built) -> None:
    info = _catalog.builders()[built.name]
    assert sum(p.numel() for p in built.model.parameters()) == info.num_params


@torch.inference_mode()
def test_output_equals_the_reference(built: Built) -> None:
    expected = reference.load(f"outputs/{built.name}.json")
    output = built.model(*reference.inputs(expected["input"]["kind"]))
    reference.assert_matches(output, expected["output"])


@pytest.mark.parametrize("name", _smallest_of_each_file())
def test_two_threads_on_one_model_equal_one(name: str) -> None:
    # Most detectors enlarge images to a side of 800 pixels unless told otherwise, which only takes longer.
    enlarges = _catalog.builders()[name].task == "detection" and not name.startswith("ssd")
    model = reference.build(name, **({"min_size": 160} if enlarges else {})).model
    first = reference.inputs(reference.load(f"outputs/{name}.json")["input"]["kind"])
    second = pytree.tree_map(lambda x: x.flip(-1), first)
    alone = [_leaves(model, args) for args in (first, second)]
    before = _attributes(model)
    together: list[list[Tensor]] = [[], []]
    barrier = threading.Barrier(2)

    def work(index: int, args: tuple[Any, ...]) -> None:
        barrier.wait()
        together[index] = _leaves(model, args)

    threads = [threading.Thread(target=work, args=a) for a in enumerate((first, second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, two in zip(alone, together, strict=True):
        torch.testing.assert_close(two, one, rtol=0, atol=0)
    assert _attributes(model) == before


@torch.inference_mode()
def _leaves(model: nn.Module, args: tuple[Any, ...]) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(model(*args)) if isinstance(leaf, Tensor)]


def _attributes(model: nn.Module) -> dict[str, dict[str, int]]:
    """Identity of everything that hangs on each module, so that state kept by a call shows."""
    return {name: {key: id(value) for key, value in vars(module).items()} for name, module in model.named_modules()}
