"""INT8: layout, closeness to float, files, and the engines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.models import parts, reference, seeded
from torch import Tensor, nn
from torch.ao import quantization as ao
from torch.utils import _pytree as pytree

from zoofleet.errors import FailedPreconditionError, InvalidArgumentError, InvalidWeightsError
from zoofleet.models import GoogLeNetOutputs, WeightsEnum, get_model, list_models, quantization, resnet18
from zoofleet.models.quantization import (
    GoogLeNet_QuantizedWeights,
    Inception_V3_QuantizedWeights,
    MobileNet_V3_Large_QuantizedWeights,
    QuantizableShuffleNetV2,
    ShuffleNet_V2_X0_5_QuantizedWeights,
)

# What PyTorch says to whoever keeps INT8 state dicts, or calls its eager quantization, himself.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in ("TypedStorage is deprecated", "torch.ao.quantization is deprecated", "torch.quantize_per_tensor")
]

NAMES = list_models(quantization)
SUPPORTED = torch.backends.quantized.supported_engines
ENGINE = next(engine for engine in ("x86", "onednn", "qnnpack") if engine in SUPPORTED)

Publish = Callable[[WeightsEnum, dict[str, Any]], None]

SCENES = 10


def _pictures(per_scene: range, side: int = 80) -> Tensor:
    """Scenes behind structured disturbances, of which each number is another: (SCENES * n, 3, side, side)."""
    pictures = [
        0.6 * seeded.image(side, side, scene) + 0.4 * seeded.image(side, side, 1000 * (scene + 1) + number)
        for scene in range(SCENES)
        for number in per_scene
    ]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()  # (N, 3, H, W)
    return (pixels / 255 - 0.45) / 0.225


def _bare(name: str, **options: Any) -> Any:
    """A model without auxiliary heads and their slow initialisation."""
    inception = {"aux_logits": False, "init_weights": False} if name.endswith(("googlenet", "inception_v3")) else {}
    torch.manual_seed(0)
    return get_model(name, num_classes=SCENES, **inception, **options)


@torch.no_grad()
def _knowing(name: str, pictures: Tensor) -> Any:
    """A float model that tells scenes apart, with random convolutions and a classifier fitted to `pictures`.

    With weights drawn as for training, agreement would say nothing. Either all inputs give nearly the same logits (with
    the batch norms' initial statistics, whatever shifts the means hides the inputs), or differences between inputs grow
    from layer to layer (with the batch's statistics, as ReLU after a centred norm is as bent as it can be), and then
    rounding the input to 7 bits alone changes half of the top-1 classes in float. Norms with the batch's statistics and
    a bias of 1 keep most values on ReLU's straight side, and differences as large as they are.
    """
    model = _settled(_bare(name), pictures)
    classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    features: list[Tensor] = []
    hook = classifier.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].double()))
    model(pictures)
    hook.remove()
    # Ridge regression onto one for the right scene and minus one for the others.
    mean = features[0].mean(0)
    centred = features[0] - mean  # (N, features)
    wanted = 2 * torch.eye(SCENES, dtype=torch.double).repeat_interleave(len(pictures) // SCENES, 0) - 1  # (N, SCENES)
    gram = centred @ centred.T
    ridge = 0.1 * gram.diagonal().mean() * torch.eye(len(pictures), dtype=torch.double)
    weight = torch.linalg.solve(gram + ridge, wanted).T @ centred  # (SCENES, features)
    classifier.weight.copy_(weight)
    classifier.bias.copy_(-weight @ mean)
    return model


@torch.no_grad()
def _settled(model: Any, pictures: Tensor) -> Any:
    """The model in eval mode, with the statistics of these pictures."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.bias)
            module.momentum = None
            module.reset_running_stats()
    model.train()(pictures)
    return model.eval()


@dataclass(frozen=True)
class Converted:
    """An INT8 model that was calibrated on other pictures than these."""

    name: str
    int8: nn.Module
    pictures: Tensor
    float_logits: Tensor
    int8_logits: Tensor


@pytest.fixture(scope="module", params=parts.builders(NAMES))
def converted(request: pytest.FixtureRequest) -> Iterator[Converted]:
    side = 64 if "resnext" in request.param else 80  # they take most of the time
    known, pictures = _pictures(range(100, 105), side), _pictures(range(10), side)
    model = _knowing(request.param, known)
    with torch.inference_mode():
        before = model(pictures)
        quantization.convert(model, torch.split(known, 25), backend=ENGINE)
        yield Converted(request.param, model, pictures, before, model(pictures))


@pytest.mark.parametrize("name", parts.builders(NAMES))
def test_the_layout_equals_the_manifest(name: str) -> None:
    if "mobilenet" in name and "qnnpack" not in SUPPORTED:
        pytest.skip("this build of PyTorch has no qnnpack")
    assert reference.describe(get_model(name, quantize=True).state_dict()) == reference.load(
        f"state_dicts/{name}.int8.json"
    )


def _by_hand(name: str, engine: str, **options: Any) -> Any:
    """The INT8 model that PyTorch's own quantization makes of the float one, from one image that is drawn after it."""
    torch.manual_seed(0)
    model: Any = get_model(name, **options)
    if name == "quantized_mobilenet_v3_large":  # as if it were to be trained with rounding, which measures the scales
        model.train().fuse_model(is_qat=True)
        model.qconfig = ao.get_default_qat_qconfig(engine)  # type: ignore[no-untyped-call]
        ao.prepare_qat(model, inplace=True)  # type: ignore[no-untyped-call]
    else:
        model.eval().fuse_model()
        observer = ao.default_weight_observer if engine == "qnnpack" else ao.default_per_channel_weight_observer
        model.qconfig = ao.QConfig(activation=ao.default_observer, weight=observer)  # type: ignore[no-untyped-call]
        ao.prepare(model, inplace=True)  # type: ignore[no-untyped-call]
        model(torch.rand(1, 3, 299, 299))
    ao.convert(model, inplace=True)  # type: ignore[no-untyped-call]
    return model.eval()


@pytest.mark.filterwarnings("ignore:must run observer before")
@pytest.mark.parametrize("name", parts.builders(NAMES))
@torch.no_grad()
def test_random_weights_get_the_references_scales(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "mobilenet" in name and "qnnpack" not in SUPPORTED:
        pytest.skip("this build of PyTorch has no qnnpack")
    # The Inceptions' own initialisation takes long, and draws nothing after the weights.
    options = {"init_weights": False} if name.endswith(("googlenet", "inception_v3")) else {}
    engine = "qnnpack" if "mobilenet" in name else ENGINE
    monkeypatch.setattr(torch.backends.quantized, "engine", engine)
    expected = _by_hand(name, engine, **options)
    expected_draw = torch.rand(1)
    torch.manual_seed(0)
    int8 = get_model(name, quantize=True, **options)
    next_draw = torch.rand(1)
    _assert_same_state(int8, expected)
    pictures = _pictures(range(1))[:2]
    assert torch.equal(int8(pictures), expected(pictures))
    assert torch.equal(next_draw, expected_draw)


def test_int8_agrees_with_float_on_structured_inputs(converted: Converted) -> None:
    right = torch.arange(SCENES).repeat_interleave(len(converted.pictures) // SCENES)
    top1, top1_float = converted.int8_logits.argmax(1), converted.float_logits.argmax(1)
    assert (top1_float == right).sum() >= 90, "the float model must know the scenes for agreement to mean anything"
    assert (top1 == top1_float).sum() >= 90
    mean = converted.float_logits.mean(0)
    assert torch.cosine_similarity(converted.int8_logits - mean, converted.float_logits - mean).mean() > 0.95
    assert not converted.int8.training


@torch.inference_mode()
def test_int8_weights_come_back_from_a_file_exactly(converted: Converted, tmp_path: Any) -> None:
    path = tmp_path / "int8.pth"
    torch.save(converted.int8.state_dict(), path)
    fresh = _bare(converted.name, quantize=True, backend=ENGINE)
    fresh.load_state_dict(torch.load(path, weights_only=True))
    _assert_same_state(fresh, converted.int8)
    assert torch.equal(fresh(converted.pictures), converted.int8_logits)


def _assert_same_state(model: nn.Module, other: nn.Module) -> None:
    """Demand equal weights, scales and zero points."""
    ours, theirs = model.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    for key, value in ours.items():
        for one, two in zip(pytree.tree_leaves(value), pytree.tree_leaves(theirs[key]), strict=True):
            assert torch.equal(one, two) if isinstance(one, Tensor) else one == two, key


def test_the_scale_of_the_input_spans_the_image_that_is_drawn_after_the_weights() -> None:
    torch.manual_seed(0)
    quantization.shufflenet_v2_x0_5()
    brightest = torch.rand(1, 3, 299, 299).max()
    torch.manual_seed(0)
    state = quantization.shufflenet_v2_x0_5(quantize=True).state_dict()
    torch.testing.assert_close(state["quant.scale"], brightest[None] / 127, rtol=1e-6, atol=0)
    assert state["quant.zero_point"].tolist() == [0]


@pytest.mark.parametrize("name", [name for name in NAMES if "resnext" not in name])
@torch.inference_mode()
def test_fusing_changes_no_result(name: str) -> None:
    model = _bare(name).eval()
    seeded.fill(model.state_dict())
    pictures = _pictures(range(1))[:2]
    before = model(pictures)
    model.fuse_model()
    torch.testing.assert_close(model(pictures), before, rtol=1e-3, atol=1e-4)
    assert not any("running_mean" in key for key in model.state_dict())


def test_fusing_for_training_keeps_the_norms() -> None:
    by_mode, by_argument = _bare("quantized_shufflenet_v2_x0_5").train(), _bare("quantized_shufflenet_v2_x0_5").train()
    by_mode.fuse_model()
    by_argument.fuse_model(is_qat=True)
    assert list(by_mode.state_dict()) == list(by_argument.state_dict())
    assert sum("running_mean" in key for key in by_mode.state_dict()) == 56


# Engines and errors.


@pytest.mark.parametrize("engine", ["x86", "fbgemm", "qnnpack", "onednn"])
@torch.inference_mode()
def test_every_engine_of_this_processor_stays_close_to_float(engine: str) -> None:
    if engine not in SUPPORTED:
        pytest.skip(f"this processor or build of PyTorch has no {engine}")
    known, pictures = _pictures(range(100, 102)), _pictures(range(2))
    model = _knowing("quantized_resnet18", known)
    before = model(pictures)
    setting = torch.backends.quantized.engine
    quantization.convert(model, [known], backend=engine)
    assert torch.backends.quantized.engine == setting
    spread = before - before.mean(0)
    assert torch.cosine_similarity(model(pictures) - before.mean(0), spread).min() > 0.95


@pytest.mark.parametrize("given", [None, "onednn", "qnnpack"])
@torch.inference_mode()
def test_weights_of_one_engine_run_on_another(given: str | None, publish: Publish) -> None:
    if given is not None and given not in SUPPORTED:
        pytest.skip(f"this processor or build of PyTorch has no {given}")
    pictures = _pictures(range(1))
    original = quantization.shufflenet_v2_x0_5(quantize=True)
    publish(ShuffleNet_V2_X0_5_QuantizedWeights.DEFAULT, original.state_dict())
    model = quantization.shufflenet_v2_x0_5(weights="DEFAULT", progress=False, quantize=True, backend=given)
    similarity = torch.cosine_similarity(model(pictures), original(pictures))
    assert similarity.min() > (0.99 if given else 1 - 1e-6)


@pytest.mark.parametrize("build", [quantization.resnet18, quantization.mobilenet_v2])
def test_an_unknown_engine_is_refused_with_the_choices(build: Callable[..., nn.Module]) -> None:
    with pytest.raises(InvalidArgumentError, match="one of fbgemm, onednn, qnnpack, x86, got 'tensorrt'"):
        build(quantize=True, backend="tensorrt")


def test_an_engine_that_the_processor_lacks_is_refused_with_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends, "quantized", SimpleNamespace(supported_engines=["none", "qnnpack", "onednn"]))
    with pytest.raises(FailedPreconditionError, match="INT8 with x86 on this processor; it has onednn, qnnpack"):
        quantization.resnet18(quantize=True, backend="x86")
    monkeypatch.setattr(torch.backends, "quantized", SimpleNamespace(supported_engines=["none"]))
    with pytest.raises(FailedPreconditionError, match="it has none of fbgemm, onednn, qnnpack, x86"):
        quantization.resnet18(quantize=True)


def test_conversion_refuses_what_it_cannot_convert() -> None:
    pictures = [_pictures(range(1))[:1]]
    with pytest.raises(InvalidArgumentError, match="ResNet cannot be quantized; build it with"):
        quantization.convert(resnet18(), pictures)  # type: ignore[arg-type]
    model = _bare("quantized_shufflenet_v2_x0_5")
    with pytest.raises(InvalidArgumentError, match="at least one batch"):
        quantization.convert(model, [])
    quantization.convert(model, pictures)
    with pytest.raises(FailedPreconditionError, match="is INT8 already"):
        quantization.convert(model, pictures)


@pytest.mark.parametrize("name", ["quantized_mobilenet_v2", "quantized_resnet18"])
def test_two_threads_on_one_int8_model_equal_one(name: str) -> None:
    pictures = _pictures(range(1))
    alone = _logits(_bare(name, quantize=True), pictures)
    model = _bare(name, quantize=True)
    together: list[Tensor] = []
    barrier = threading.Barrier(2)

    def work() -> None:
        barrier.wait()
        together.append(_logits(model, pictures))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [torch.equal(logits, alone) for logits in together] == [True, True]


@torch.inference_mode()
def _logits(model: nn.Module, pictures: Tensor) -> Tensor:
    logits: Tensor = model(pictures)
    return logits


# Published files.


@pytest.mark.parametrize("older", [False, True])
@torch.inference_mode()
def test_mobilenet_v3s_weights_are_converted_after_loading(older: bool, publish: Publish) -> None:
    torch.manual_seed(0)
    trained = _settled(quantization.mobilenet_v3_large(), _pictures(range(1))).train()
    trained.fuse_model()
    trained.qconfig = ao.get_default_qat_qconfig("qnnpack")  # type: ignore[no-untyped-call]
    ao.prepare_qat(trained, inplace=True)  # type: ignore[no-untyped-call]
    trained(_pictures(range(1)))
    state = trained.state_dict()
    if older:  # before the gates' activations were modules that are observed
        state = {key: value for key, value in state.items() if ".scale_activation." not in key}
    publish(MobileNet_V3_Large_QuantizedWeights.DEFAULT, state)
    int8 = quantization.mobilenet_v3_large(weights="DEFAULT", progress=False, quantize=True)
    pictures = _pictures(range(1, 2))
    similarity = torch.cosine_similarity(int8(pictures), trained.eval()(pictures))
    assert similarity.min() > 0.99
    assert int8.state_dict()["features.0.0.weight"].is_quantized


@pytest.mark.parametrize(
    ("build", "weights", "in_file", "heads"),
    [
        (quantization.googlenet, GoogLeNet_QuantizedWeights.DEFAULT, True, {"aux1", "aux2"}),
        (quantization.inception_v3, Inception_V3_QuantizedWeights.DEFAULT, False, {"AuxLogits"}),
    ],
)
@torch.inference_mode()
def test_inception_weights_bring_their_input_and_no_untrained_heads(
    build: Callable[..., nn.Module], weights: WeightsEnum, in_file: bool, heads: set[str], publish: Publish
) -> None:
    pictures = _pictures(range(1))
    original = build(quantize=True, init_weights=False, transform_input=True, aux_logits=in_file)
    publish(weights, original.state_dict())
    model = build(weights=weights, progress=False, quantize=True)
    assert {key.partition(".")[0] for key in model.state_dict()}.isdisjoint(heads)
    assert torch.equal(model(pictures), original(pictures))
    if in_file:
        kept = build(weights=weights, progress=False, quantize=True, aux_logits=True)
        assert {key.partition(".")[0] for key in kept.state_dict()} > heads
    else:
        with pytest.raises(InvalidWeightsError, match=r"AuxLogits\.conv0"):
            build(weights=weights, progress=False, quantize=True, aux_logits=True)


def test_float_weights_are_refused_where_int8_is_asked_for(publish: Publish) -> None:
    model = QuantizableShuffleNetV2((4, 8, 4), (24, 48, 96, 192, 1024))
    publish(ShuffleNet_V2_X0_5_QuantizedWeights.DEFAULT, model.state_dict())
    with pytest.raises(InvalidWeightsError, match=r"conv1\.0"):
        quantization.shufflenet_v2_x0_5(weights="DEFAULT", progress=False, quantize=True)


def test_googlenet_in_training_returns_its_heads_logits() -> None:
    model = quantization.googlenet(num_classes=4, init_weights=False).train()
    outputs = model(_pictures(range(1))[:2])
    assert isinstance(outputs, GoogLeNetOutputs)
    assert {tuple(logits.shape) for logits in outputs} == {(2, 4)}
