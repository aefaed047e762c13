"""Builders and weights by name, and what older code passes to builders."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import re
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
    _weight_sets,
    _weights,
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


def test_a_body_only_builds_and_steps_do_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_entries", {})
    done: list[Any] = []
    monkeypatch.setattr(_registry, "load_weights", lambda model, weights, progress: done.append((weights, progress)))

    def then(_model: nn.Module, *, heads: bool = False, weights: WeightsEnum | None = None) -> None:
        """Note what the step got.

        Args:
            heads: keep them.

        Raises:
            InvalidArgumentError: never.
        """
        done.append((heads, weights))

    @register_model(
        weights=ResNet50_Weights,
        fixed={"size": lambda meta: meta["min_size"][0]},
        finish=(_registry.load_published, then),
    )
    def resnet50(*, size: int = 224, heads: bool = True, **kwargs: Any) -> _Received:
        """Build a stand-in.

        Args:
            size: of the images.
            **kwargs: anything.

        Raises:
            InvalidArgumentError: sometimes.
        """
        return _Received(size=size, heads=heads, **kwargs)

    assert resnet50(size=None, num_classes=None, other=3).kwargs == {"size": 224, "heads": True, "other": 3}
    assert done == [(True, None)]
    done.clear()
    made = resnet50(weights="IMAGENET1K_V1", progress=False, heads=False)
    assert made.kwargs == {"size": 1, "heads": False, "num_classes": 1000}
    assert done == [(V1, False), (False, V1)]
    with pytest.raises(InvalidArgumentError, match="has size=1, got 32; build with weights=None"):
        resnet50(weights=V1, size=32)

    assert list(inspect.signature(resnet50).parameters) == ["weights", "progress", "heads", "size", "kwargs"]
    assert inspect.getdoc(resnet50) == (
        "Build a stand-in.\n\nArgs:\n"
        '    weights: a member of `ResNet50_Weights`, or the name of one, such as "DEFAULT"; None for random\n'
        "        weights.\n"
        "    progress: write a progress line to stderr while the weights are downloaded.\n"
        "    heads: keep them.\n    size: of the images.\n    **kwargs: anything.\n\nRaises:\n"
        "    InvalidArgumentError: sometimes; or the weights belong to another model, or fix an option that\n"
        "        was given another value; or never.\n"
        "    UnknownWeightsError: there are no weights of that name.\n"
        "    WeightsUnavailableError: neither the cache nor the URL, checkout or mirror has the file.\n"
        "    InvalidWeightsError: the file is not the published one, holds code, or does not fit the model."
    )


@pytest.mark.parametrize("name", list(_catalog.builders()))
def test_each_builder_describes_all_its_parameters(name: str) -> None:
    builder = get_model_builder(name)
    described = inspect.getdoc(builder) or ""
    assert described.index("\nArgs:\n") < described.index("\nRaises:\n")
    for parameter in inspect.signature(builder).parameters.values():
        prefix = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        assert f"\n    {prefix}{parameter.name}: " in described
    if _catalog.builders()[name].task != "quantization":
        assert re.search(r"\n\nSources?: .+\n(.+\n)*\nArgs:\n", described)


def test_members_survive_pickling_and_copying() -> None:
    assert pickle.loads(pickle.dumps(V2)) is V2
    assert copy.deepcopy(V2) is V2
    assert ResNet50_Weights["DEFAULT"] is V2
    assert repr(V2) == "ResNet50_Weights.IMAGENET1K_V2"


def test_an_enum_is_made_once_and_belongs_to_its_builders_module() -> None:
    assert _weights.weights_enum("ResNet50_Weights") is _weight_sets.ResNet50_Weights is ResNet50_Weights
    for name in list_models():
        assert get_model_weights(name).__module__ == get_model_builder(name).__module__
    with pytest.raises(ImportError, match="ResNet51_Weights"):
        from zoofleet.models._weight_sets import ResNet51_Weights  # type: ignore[attr-defined]  # noqa: F401


def test_presets_take_further_options() -> None:
    shown = repr(V2.transforms(crop_size=64))
    assert "crop_size=64, resize_size=232" in shown
    assert V2.transforms(crop_size=64)(torch.zeros(3, 70, 80)).shape == (3, 64, 64)
