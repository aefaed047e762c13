"""INT8: layout, closeness to float, and the process-wide engine that packing needs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from tests.models import reference, seeded
from torch import Tensor

from zoofleet.errors import FailedPreconditionError, InvalidArgumentError
from zoofleet.models import quantization
from zoofleet.models._weights import Weights, WeightsEnum
from zoofleet.models.quantization import QuantizableMobileNetV2
from zoofleet.models.quantization._convert import finish
from zoofleet.models.transforms import ImageClassification

pytestmark = pytest.mark.skipif(
    "qnnpack" not in torch.backends.quantized.supported_engines, reason="this build of PyTorch has no qnnpack"
)

IMAGE = reference.inputs("(image(224,224,1)/255-0.45)/0.225, NCHW")[0]


def filled() -> QuantizableMobileNetV2:
    model = QuantizableMobileNetV2().eval()
    seeded.fill(model.state_dict())
    return model


@pytest.fixture(scope="module")
def int8() -> QuantizableMobileNetV2:
    model = filled()
    finish(model, None, False, quantize=True, backend="qnnpack")
    return model


def test_the_layout_equals_the_manifest() -> None:
    state = quantization.mobilenet_v2(quantize=True).state_dict()
    assert reference.describe(state) == reference.load("state_dicts/quantized_mobilenet_v2.int8.json")


@torch.inference_mode()
def test_int8_stays_close_to_float(int8: QuantizableMobileNetV2) -> None:
    assert torch.cosine_similarity(int8(IMAGE), filled()(IMAGE)).item() > 0.995


@torch.inference_mode()
def test_fusing_changes_no_result() -> None:
    model = filled()
    before = model(IMAGE)
    model.fuse_model()
    torch.testing.assert_close(model(IMAGE), before, rtol=1e-3, atol=1e-4)
    assert not any("running_mean" in key for key in model.state_dict())


def _published(model: QuantizableMobileNetV2, folder: Path, backend: str) -> WeightsEnum:
    path = folder / "net.pth"
    torch.save(model.state_dict(), path)
    path = path.rename(folder / f"net_{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")
    value = Weights(path.as_uri(), ImageClassification, {"backend": backend})
    return cast("type[WeightsEnum]", cast("Any", WeightsEnum)("Net_QuantizedWeights", {"V1": value})).V1


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@torch.inference_mode()
def test_int8_weights_come_back_from_their_file(
    int8: QuantizableMobileNetV2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    engine = torch.backends.quantized.engine
    model = QuantizableMobileNetV2()
    finish(model, _published(int8, tmp_path, "qnnpack"), False, quantize=True, backend="qnnpack")
    torch.testing.assert_close(_logits(model), _logits(int8), rtol=0, atol=0)
    assert torch.backends.quantized.engine == engine


def _logits(model: QuantizableMobileNetV2) -> Tensor:
    logits: Tensor = model(IMAGE)
    return logits


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_weights_for_another_backend_are_refused(int8: QuantizableMobileNetV2, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="laid out for fbgemm, not for qnnpack"):
        finish(filled(), _published(int8, tmp_path, "fbgemm"), False, quantize=True, backend="qnnpack")


def test_a_missing_engine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends, "quantized", SimpleNamespace(supported_engines=["none", "onednn"]))
    with pytest.raises(FailedPreconditionError, match="need PyTorch's qnnpack engine; this build has none, onednn"):
        quantization.mobilenet_v2(quantize=True)


def test_quantizing_leaves_the_global_random_stream_alone() -> None:
    torch.manual_seed(0)
    quantization.mobilenet_v2()
    after_float = torch.rand(1)
    torch.manual_seed(0)
    quantization.mobilenet_v2(quantize=True)
    torch.testing.assert_close(torch.rand(1), after_float, rtol=0, atol=0)
