"""Builders and weights by name, and what older code passes to builders."""

from __future__ import annotations

import copy
import importlib
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import zoofleet.models
from zoofleet import _catalog
from zoofleet.errors import (
    AlreadyExistsError,
    InternalError,
    InvalidArgumentError,
    UnknownModelError,
    UnknownWeightsError,
)
from zoofleet.models import (
    MobileNet_V2_Weights,
    ResNet50_Weights,
    WeightsEnum,
    _registry,
    get_model,
    get_model_builder,
    get_model_weights,
    get_weight,
    list_models,
    mobilenet_v2,
    quantization,
    register_model,
    resnet50,
)
from zoofleet.models._weights import define_weights
from zoofleet.models.quantization import MobileNet_V2_QuantizedWeights

V1, V2 = ResNet50_Weights.IMAGENET1K_V1, ResNet50_Weights.IMAGENET1K_V2


class _Received(nn.Module):
    """Stands for the model: what a builder's body was called with."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.kwargs = kwargs


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[..., _Received]]:
    """Registers a builder that only takes arguments, in an empty registry."""
    monkeypatch.setattr(_registry, "_entries", {})

    def register(name: str = "resnet50", function: str = "resnet50", **options: Any) -> Callable[..., _Received]:
        def builder(
            *,
            weights: WeightsEnum | None = None,
            progress: bool = True,
            num_classes: int | None = None,
            weights_backbone: WeightsEnum | None = ResNet50_Weights.IMAGENET1K_V1,
            **kwargs: Any,
        ) -> _Received:
            return _Received(weights=weights, progress=progress, weights_backbone=weights_backbone, **kwargs)

        builder.__name__ = function
        arguments: dict[str, Any] = {"weights": ResNet50_Weights, "name": name, "finish": ()} | options
        return register_model(**arguments)(builder)

    return register


def test_the_registry_holds_the_catalog() -> None:
    assert list_models() == sorted(_catalog.builders())


@pytest.mark.parametrize("name", list(_catalog.builders()))
def test_each_builder_is_exported_where_its_task_stands(name: str) -> None:
    info = _catalog.builders()[name]
    place = "" if info.task == "classification" else f".{info.task}"
    module = importlib.import_module(f"zoofleet.models{place}")
    weights = get_model_weights(name)
    assert getattr(module, info.function) is get_model_builder(name)
    assert getattr(module, weights.__name__) is weights
    assert {info.function, weights.__name__} <= set(module.__all__)
    assert name in list_models(module)


def test_all_names_in_all_exist() -> None:
    for module in (zoofleet.models, quantization):
        assert all(hasattr(module, name) for name in module.__all__)


def test_models_are_listed_by_module_and_pattern() -> None:
    assert "resnet50" in list_models(zoofleet.models)
    assert "quantized_mobilenet_v2" not in list_models(zoofleet.models)
    assert "quantized_mobilenet_v2" in list_models(quantization)
    assert set(list_models(include="*mobilenet_v3*", exclude=["lraspp*", "*_fpn", "*small", "deeplab*", "quan*"])) == {
        "mobilenet_v3_large",
        "ssdlite320_mobilenet_v3_large",
    }
    assert list_models(include=[]) == []


def test_models_and_weights_are_found_by_name() -> None:
    assert get_model_builder("ResNet50") is resnet50
    assert get_model_weights("quantized_mobilenet_v2") is MobileNet_V2_QuantizedWeights
    assert get_model_weights(quantization.mobilenet_v2) is MobileNet_V2_QuantizedWeights
    assert get_model_weights(mobilenet_v2) is MobileNet_V2_Weights
    assert get_weight("ResNet50_Weights.IMAGENET1K_V1") is V1
    assert get_weight("ResNet50_Weights.DEFAULT") is V2
    assert isinstance(get_model("mobilenet_v2", num_classes=3), zoofleet.models.MobileNetV2)


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match=r"'resnet5O'; did you mean .*resnet50"):
        get_model("resnet5O")
    with pytest.raises(UnknownModelError, match="not a registered builder"):
        get_model_weights(nn.Linear)
    with pytest.raises(UnknownWeightsError, match=r"did you mean .*ResNet50_Weights"):
        get_weight("Resnet50_Weights.DEFAULT")
    with pytest.raises(UnknownWeightsError, match="it has IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"):
        get_weight("ResNet50_Weights.IMAGENET1K_V3")
    for name in ("ResNet50_Weights", "ResNet50_Weights.", ""):
        with pytest.raises(InvalidArgumentError, match="is not written"):
            get_weight(name)


def test_a_name_is_registered_once(register: Callable[..., Any]) -> None:
    register()
    with pytest.raises(AlreadyExistsError, match="resnet50"):
        register()


@pytest.mark.parametrize(
    ("name", "function"), [("resnet51", "resnet50"), ("resnet50", "resnet"), ("quantized_mobilenet_v2", "resnet50")]
)
def test_what_the_catalog_does_not_have_is_not_registered(
    register: Callable[..., Any], name: str, function: str
) -> None:
    with pytest.raises(InternalError, match="the catalog has no builder"):
        register(name, function)


def test_weights_of_another_builder_are_not_registered(register: Callable[..., Any]) -> None:
    with pytest.raises(InternalError, match="not MobileNet_V2_Weights"):
        register(weights=MobileNet_V2_Weights)


@pytest.mark.parametrize("given", [V2, "IMAGENET1K_V2", "DEFAULT", "ResNet50_Weights.DEFAULT"])
def test_weights_may_be_a_member_or_its_name(register: Callable[..., Any], given: Any) -> None:
    assert register()(weights=given).kwargs["weights"] is V2


def test_no_weights_are_none(register: Callable[..., Any]) -> None:
    assert register()().kwargs["weights"] is None
    assert register("mobilenet_v2", "mobilenet_v2", weights=MobileNet_V2_Weights)(weights=None).kwargs["progress"]


@pytest.mark.parametrize("given", [MobileNet_V2_Weights.DEFAULT, 1, V2.url.encode(), {}])
def test_other_things_are_no_weights(register: Callable[..., Any], given: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="must be a member of ResNet50_Weights"):
        register()(weights=given)


@pytest.mark.parametrize(("pretrained", "weights"), [(True, V1), (False, None)])
def test_pretrained_still_works_and_names_its_replacement(
    register: Callable[..., Any], pretrained: bool, weights: WeightsEnum | None
) -> None:
    builder = register(weights_backbone=ResNet50_Weights)
    replacement = rf"use 'weights': pretrained={pretrained} is weights={weights!r}"
    with pytest.warns(UserWarning, match=replacement) as by_name:
        assert builder(pretrained=pretrained).kwargs["weights"] is weights
    with pytest.warns(UserWarning, match=replacement) as by_place:
        assert builder(pretrained).kwargs["weights"] is weights
    assert [w.filename for caught in (by_name, by_place) for w in caught] == [__file__] * 2
    with pytest.warns(UserWarning, match="use 'weights_backbone'"):
        assert builder(pretrained_backbone=pretrained).kwargs["weights_backbone"] is weights


def test_positions_still_work(register: Callable[..., Any]) -> None:
    with pytest.warns(UserWarning, match=r"call resnet50\(weights=..., progress=...\)"):
        made = register()(V1, False)
    assert (made.kwargs["weights"], made.kwargs["progress"]) == (V1, False)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {"pretrained": True, "weights": None}, "give only one"),
        ((), {"pretrained": "yes"}, "takes True or False, got 'yes'"),
        ((V1,), {"weights": V1}, "weights by name too"),
        ((V1, True, 1, None, 2, 3, 4), {}, "7 positional arguments"),
    ],
)
def test_contradictions_are_refused(
    register: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        register()(*args, **kwargs)


def test_another_number_of_classes_is_refused_before_anything_is_downloaded() -> None:
    with pytest.raises(InvalidArgumentError, match=r"ResNet50_Weights\.IMAGENET1K_V1 has num_classes=1000, got 10"):
        resnet50(weights=V1, num_classes=10)


def test_a_quantizable_builder_takes_the_weights_of_the_form_it_builds() -> None:
    with pytest.raises(InvalidArgumentError, match="member of MobileNet_V2_Weights"):
        quantization.mobilenet_v2(weights=MobileNet_V2_QuantizedWeights.DEFAULT)
    with pytest.raises(InvalidArgumentError, match="member of MobileNet_V2_QuantizedWeights"):
        quantization.mobilenet_v2(weights=MobileNet_V2_Weights.DEFAULT, quantize=True)


def test_members_survive_pickling_and_copying() -> None:
    assert pickle.loads(pickle.dumps(V2)) is V2
    assert copy.deepcopy(V2) is V2
    assert ResNet50_Weights["DEFAULT"] is V2
    assert repr(V2) == "ResNet50_Weights.IMAGENET1K_V2"


def test_an_enum_is_defined_once_and_from_the_catalog() -> None:
    with pytest.raises(InternalError, match="defined already"):
        define_weights("ResNet50_Weights")
    with pytest.raises(InternalError, match="not in the catalog"):
        define_weights("ResNet51_Weights")


def test_presets_take_further_options() -> None:
    shown = repr(V2.transforms(crop_size=64))
    assert "crop_size=64, resize_size=232" in shown
    assert V2.transforms(crop_size=64)(torch.zeros(3, 70, 80)).shape == (3, 64, 64)
