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
from zoofleet.models import get_model


@pytest.fixture(scope="module", params=parts.builders(_catalog.builders()))
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


def _quick(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """A model and an input of it, both no larger than they must be for calls to meet in."""
    inputs = reference.inputs(reference.load(f"outputs/{name}.json")["input"]["kind"])
    arguments = reference.arguments_of(name)
    if _catalog.builders()[name].task != "detection":
        torch.manual_seed(0)
        return get_model(name, **arguments).eval(), inputs
    # Most detectors enlarge images to a side of 800 pixels, and mask and keypoint heads see each detection.
    options = {key: 3 for key in arguments if key.endswith("detections_per_img")}
    options |= {} if name.startswith("ssd") else {"min_size": 160}
    return reference.build(name, **options).model, (inputs[0][:1],)


@pytest.mark.parametrize("name", reference.smallest_of_each_file())
def test_two_threads_on_one_model_equal_one(name: str) -> None:
    model, first = _quick(name)
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
