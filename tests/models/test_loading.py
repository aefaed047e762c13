"""`load_model` gives what `get_model` gives, for all builders, and draws nothing."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from tests.models import parts, reference
from tests.models.published import state_of
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from zoofleet import _catalog
from zoofleet.errors import InvalidWeightsError
from zoofleet.models import WeightsEnum, _hub, get_model, get_model_builder, get_model_weights
from zoofleet.models._loading import load_model
from zoofleet.models.quantization._quantizable import without_expected_warnings


def given(builder: str, weights: WeightsEnum, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the file of a weight set hold made up numbers."""
    state = state_of(weights, builder)
    if builder == "quantized_inception_v3":  # published without its auxiliary head
        for key in [key for key in state if key.lower().startswith("aux")]:
            del state[key]
    monkeypatch.setattr(_hub, "load_state_dict", lambda *_, **__: copy.copy(state))


def options_of(builder: str) -> dict[str, Any]:
    """Arguments as the worker gives them; detectors are to look at small images."""
    info = _catalog.builders()[builder]
    if info.task == "quantization":
        return {"quantize": True}
    small: dict[str, Any] = {}
    if info.task == "detection":
        small = {key: 3 for key in reference.arguments_of(builder) if key.endswith("detections_per_img")}
        small |= {} if builder.startswith("ssd") else {"min_size": 160}
    parameters = inspect.signature(get_model_builder(builder)).parameters
    return small | ({"weights_backbone": None} if "weights_backbone" in parameters else {})


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """All by name: parameters, buffers, those that are not saved among them, and packed INT8 weights."""
    saved = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return saved | dict(named)


def attributes(module: nn.Module) -> list[Any]:
    """Simple values that modules were given when they were made."""
    return [
        (name, type(part), {key: value for key, value in vars(part).items() if isinstance(value, int | float | str)})
        for name, part in module.named_modules()
    ]


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    one, other = tensors(found), tensors(expected)
    assert list(one) == list(other)
    for key, value in one.items():
        wanted = other[key]
        assert (type(value), value.dtype, value.requires_grad) == (type(wanted), wanted.dtype, wanted.requires_grad)
        assert value.is_quantized or value.stride() == wanted.stride(), key
        assert torch.equal(value, wanted), key
    assert attributes(found) == attributes(expected)
    # Which keys are one tensor, and that no two others have memory in common.
    for which in (id, lambda tensor: tensor.untyped_storage().data_ptr()):
        groups = [{which(tensor) for tensor in held.parameters()} for held in (found, expected)]
        assert len(groups[0]) == len(groups[1])


@pytest.mark.parametrize("builder", parts.builders(_catalog.builders()))
def test_a_model_is_the_one_that_get_model_gives(builder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, options = get_model_weights(builder).DEFAULT, options_of(builder)
    if builder == "quantized_mobilenet_v3_large":
        pytest.skip(
            "its file is what training with rounding left, which tests/models/test_quantization.py makes and loads"
        )
    given(builder, weights, monkeypatch)
    with without_expected_warnings():
        expected = get_model(builder, weights=weights, progress=False, **options)
    before = torch.get_rng_state()
    with without_expected_warnings():
        found = load_model(builder, weights, **options)
    assert torch.equal(torch.get_rng_state(), before)  # or random models, drawn by other threads, would differ
    assert_same(found, expected)
    if parts.is_large(builder) or builder not in reference.smallest_of_each_file():
        return  # equal tensors and attributes in equal classes
    inputs = reference.inputs(reference.load(f"outputs/{builder}.json")["input"]["kind"])
    if "image_size" in vars(found):  # vit_h_14's default weights take larger images than the reference's facts
        inputs = (torch.rand(1, 3, *2 * (vars(found)["image_size"],)),)
    with torch.inference_mode():
        ran = [pytree.tree_leaves(module.eval()(*inputs)) for module in (found, expected)]
    torch.testing.assert_close(*ran, rtol=0, atol=0, equal_nan=True)


def test_a_file_of_another_precision_gives_the_model_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = get_model_weights("squeezenet1_1").DEFAULT
    half = {key: value.half() for key, value in state_of(weights, "squeezenet1_1").items()}
    monkeypatch.setattr(_hub, "load_state_dict", lambda *_, **__: half)
    assert_same(load_model("squeezenet1_1", weights), get_model("squeezenet1_1", weights=weights))


@pytest.mark.parametrize("builder", ["squeezenet1_1", "quantized_shufflenet_v2_x0_5"])
def test_weights_that_do_not_fit_are_refused(builder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = get_model_weights(builder).DEFAULT
    state = state_of(weights, builder)
    del state[next(key for key in state if key.endswith("weight"))]
    monkeypatch.setattr(_hub, "load_state_dict", lambda *_, **__: state)
    with (
        without_expected_warnings(),
        pytest.raises(InvalidWeightsError, match=r"missing|does not fit .*conv1\.0\.weight"),
    ):
        load_model(builder, weights, **options_of(builder))
