"""Every snippet of the reference's documentation runs with its imports changed; see `tests/data/seeds/README.md`.

Weight files have the published layout and come from a local HTTP server under names that carry their own hashes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from PIL import Image, ImageShow
from tests.models import parts
from tests.models.published import state_of
from tests.weights_server import Hub, serving
from torch import Tensor, nn

import zoofleet.models
from zoofleet import _catalog, transforms
from zoofleet.models import get_weight, ops

SNIPPETS = Path(__file__).parents[1] / "data" / "seeds"
ROOT = Path(__file__).parents[2]

CONSTRUCTORS = ["constructors", "constructors_2021", "quantized_constructors", "quantized_constructors_2021"]

WEIGHTS: dict[str, list[str]] = {
    "weights": ["ResNet50_Weights.IMAGENET1K_V1", "ResNet50_Weights.IMAGENET1K_V2"],
    "migration": ["ResNet50_Weights.IMAGENET1K_V1"],
    "transforms": [],
    "eval": ["ResNet50_Weights.IMAGENET1K_V2"],
    "listing": ["MobileNet_V3_Large_Weights.IMAGENET1K_V2"],
    "classification": ["ResNet50_Weights.IMAGENET1K_V2"],
    "quantized": ["ResNet50_QuantizedWeights.IMAGENET1K_FBGEMM_V2"],
    "segmentation": ["FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1"],
    "detection": ["FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1"],
    "video": ["R3D_18_Weights.KINETICS400_V1"],
    "quantized_weights": ["MobileNet_V2_QuantizedWeights.IMAGENET1K_QNNPACK_V1"],
    "quantized_pretrained": ["MobileNet_V2_QuantizedWeights.IMAGENET1K_QNNPACK_V1"],
    "pretrained": [
        "ResNet18_Weights.IMAGENET1K_V1",
        "AlexNet_Weights.IMAGENET1K_V1",
        "SqueezeNet1_0_Weights.IMAGENET1K_V1",
        "VGG16_Weights.IMAGENET1K_V1",
        "DenseNet161_Weights.IMAGENET1K_V1",
        "Inception_V3_Weights.IMAGENET1K_V1",
        "GoogLeNet_Weights.IMAGENET1K_V1",
        "ShuffleNet_V2_X1_0_Weights.IMAGENET1K_V1",
        "MobileNet_V2_Weights.IMAGENET1K_V1",
        "MobileNet_V3_Large_Weights.IMAGENET1K_V1",
        "MobileNet_V3_Small_Weights.IMAGENET1K_V1",
        "ResNeXt50_32X4D_Weights.IMAGENET1K_V1",
        "Wide_ResNet50_2_Weights.IMAGENET1K_V1",
        "MNASNet1_0_Weights.IMAGENET1K_V1",
    ],
    "fasterrcnn": ["FasterRCNN_ResNet50_FPN_Weights.COCO_V1"],
    "fasterrcnn_mobilenet": ["FasterRCNN_MobileNet_V3_Large_FPN_Weights.COCO_V1"],
    "fasterrcnn_mobilenet_320": ["FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1"],
    "retinanet": ["RetinaNet_ResNet50_FPN_Weights.COCO_V1"],
    "maskrcnn": ["MaskRCNN_ResNet50_FPN_Weights.COCO_V1"],
    "keypointrcnn": ["KeypointRCNN_ResNet50_FPN_Weights.COCO_V1"],
}
"""The published files that a snippet loads."""

DEPRECATED = {"migration": 4, "pretrained": 14, "quantized_pretrained": 1} | dict.fromkeys(
    ["fasterrcnn", "fasterrcnn_mobilenet", "fasterrcnn_mobilenet_320", "retinanet", "maskrcnn", "keypointrcnn"], 1
)
"""How often a snippet uses the deprecated `pretrained`."""

IMAGES = {
    "test/assets/encode_jpeg/grace_hopper_517x606.jpg": ("astronaut.png", (517, 606)),
    "gallery/assets/dog1.jpg": ("chelsea.png", (300, 200)),
}
VIDEO = "test/assets/videos/v_SoccerJuggling_g23_c01.avi"


def code_of(name: str) -> str:
    return (SNIPPETS / f"{name}.txt").read_text()


def run(name: str, **given: Any) -> dict[str, Any]:
    """Run a snippet with the names that its page introduced before; gives all names it made."""
    namespace: dict[str, Any] = {"torch": torch} | given
    exec(compile(code_of(name), f"{name}.txt", "exec"), namespace)
    return namespace


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("ZOOFLEET_WEIGHTS_MIRROR", raising=False)
    with serving() as hub:
        yield hub


@pytest.fixture
def publish(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """Puts a file on the server in place of the published one; gives what it holds."""

    def publish(full_name: str, changes: dict[str, Any]) -> dict[str, Any]:
        weights = get_weight(full_name)
        builder = next(row.builder for row in _catalog.all_weights() if row.url == weights.url)
        state = state_of(weights, builder)
        state.update(changes)
        url = hub.at(hub.publish(state, stem=builder))
        monkeypatch.setattr(weights, "_value_", dataclasses.replace(weights.value, url=url))
        return state

    return publish


@pytest.fixture
def shown(tmp_path: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> list[Image.Image]:
    """The files that snippets read, and the pictures that they show."""
    monkeypatch.chdir(tmp_path)
    for path, (source, size) in IMAGES.items():
        Path(path).parent.mkdir(parents=True)
        with Image.open(media / source) as image:
            image.convert("RGB").resize(size).save(path)
    Path(VIDEO).parent.mkdir(parents=True)
    with av.open(str(media / "bigbuckbunny.mp4")) as clip, av.open(VIDEO, "w") as target:
        stream = target.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for _, frame in zip(range(40), clip.decode(video=0), strict=False):
            small = av.VideoFrame.from_ndarray(frame.to_ndarray(width=320, height=240, format="rgb24"))
            target.mux(stream.encode(small))
        target.mux(stream.encode())
    pictures: list[Image.Image] = []

    class Viewer(ImageShow.Viewer):
        def show(self, image: Image.Image, **_: Any) -> int:
            pictures.append(image)
            return 1

    monkeypatch.setattr(ImageShow, "_viewers", [Viewer()])
    return pictures


def deprecated(name: str) -> AbstractContextManager[Any]:
    return pytest.warns(UserWarning, match="'pretrained' is deprecated") if name in DEPRECATED else nullcontext()


def assert_holds(model: nn.Module, state: dict[str, Any]) -> None:
    own = model.state_dict()
    assert own.keys() <= state.keys()
    for key, value in own.items():
        if isinstance(value, Tensor) and not value.is_quantized:
            assert torch.equal(value, state[key]), key


def test_every_snippet_is_run_here() -> None:
    named = [*CONSTRUCTORS, *WEIGHTS, "normalize", "statistics", "statistics_2021", "hub", "hub_weights"]
    named += ["voc_categories", "coco_categories", "person_keypoints"]
    assert sorted(named) == sorted(path.stem for path in SNIPPETS.glob("*.txt"))


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructors(name: str) -> None:
    # All models of a snippet together would take 14 GB; `test_zoo.py` builds each with numbers.
    with torch.device("meta"):
        made = run(name)
    models = [value for value in made.values() if isinstance(value, nn.Module)]
    assert len(models) == code_of(name).count("()")


@pytest.mark.parametrize("name", ["weights", "migration", "eval", "pretrained"])
def test_weights(name: str, publish: Callable[..., dict[str, Any]]) -> None:
    states = [publish(weights, {}) for weights in WEIGHTS[name]]
    given = {
        "resnet50": zoofleet.models.resnet50,
        "ResNet50_Weights": zoofleet.models.ResNet50_Weights,
    }
    with deprecated(name) as caught:
        made = run(name, **given)
    assert len(caught or []) == DEPRECATED.get(name, 0)
    models = [value for value in made.values() if isinstance(value, nn.Module)]
    assert len(models) == {"eval": 1, "pretrained": 14}.get(name, 0)
    for model, state in zip(models, states, strict=False):
        assert_holds(model, state)
        assert model.training == (name != "eval")


def test_transforms() -> None:
    image = torch.randint(0, 256, (3, 300, 400), dtype=torch.uint8)
    made = run("transforms", ResNet50_Weights=zoofleet.models.ResNet50_Weights, img=image)
    assert made["img_transformed"].shape == (3, 224, 224)


def test_listing(publish: Callable[..., dict[str, Any]]) -> None:
    publish(WEIGHTS["listing"][0], {})
    models = zoofleet.models
    names = ("list_models", "get_model", "get_weight", "get_model_weights")
    made = run(
        "listing",
        zoofleet=zoofleet,
        MobileNet_V3_Large_QuantizedWeights=models.quantization.MobileNet_V3_Large_QuantizedWeights,
        **{name: getattr(models, name) for name in names},
    )
    assert set(made["classification_models"]) < set(made["all_models"]) == set(_catalog.builders())
    classifiers = {name for name, info in _catalog.builders().items() if info.task == "classification"}
    assert set(made["classification_models"]) == classifiers
    assert isinstance(made["m1"], models.MobileNetV3)


@torch.no_grad()
@pytest.mark.parametrize("name", ["classification", "quantized", "video"])
def test_prediction(
    name: str,
    publish: Callable[..., dict[str, Any]],
    shown: list[Image.Image],
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish(WEIGHTS[name][0], {})
    made = run(name)
    assert re.fullmatch(rf"{re.escape(made['category_name'])}: [\d.e-]+%\n", capsys.readouterr().out)
    assert 0 < made["score"] <= 1
    assert made["batch"].shape == ((1, 3, 32, 112, 112) if name == "video" else (1, 3, 224, 224))


@torch.no_grad()
def test_segmentation(publish: Callable[..., dict[str, Any]], shown: list[Image.Image]) -> None:
    publish(WEIGHTS["segmentation"][0], {})
    made = run("segmentation")
    assert made["prediction"].shape == (1, 21, *made["batch"].shape[-2:])
    assert [(image.mode, image.size) for image in shown] == [("L", tuple(made["mask"].shape[::-1]))]


@torch.no_grad()
def test_detection(publish: Callable[..., dict[str, Any]], shown: list[Image.Image]) -> None:
    bias = torch.zeros(91)
    bias[1] = 20.0  # everything is a person
    publish(WEIGHTS["detection"][0], {"roi_heads.box_predictor.cls_score.bias": bias})
    made = run("detection")
    assert set(made["labels"]) == {"person"}
    assert made["box"].shape == (3, 606, 517) and not made["box"].equal(made["img"])
    assert [image.size for image in shown] == [(517, 606)]


@pytest.mark.parametrize("name", ["quantized_weights", "quantized_pretrained"])
def test_quantized_weights(name: str, publish: Callable[..., dict[str, Any]]) -> None:
    state = publish(WEIGHTS[name][0], {})
    enum = zoofleet.models.quantization.MobileNet_V2_QuantizedWeights
    with deprecated(name):
        made = run(name, MobileNet_V2_QuantizedWeights=enum)
    assert made["out"].shape == (1, 1000) and made["out"].isfinite().all()
    key = "features.0.0.weight"
    assert torch.equal(made["model"].state_dict()[key].dequantize(), state[key].dequantize())


@pytest.mark.parametrize(
    "name",
    parts.marked([name for name in WEIGHTS if "rcnn" in name or name == "retinanet"], ["maskrcnn", "retinanet"]),
)
def test_detectors(name: str, publish: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    exported: list[tuple[Any, ...]] = []
    # The optional export to ONNX needs packages that Zoofleet does not.
    monkeypatch.setattr(torch.onnx, "export", lambda *arguments, **_: exported.append(arguments))
    state = publish(WEIGHTS[name][0], {})
    torch.manual_seed(0)
    with deprecated(name), torch.no_grad():
        made = run(name)
    assert_holds(made["model"], state)
    assert [set(p) >= {"boxes", "labels", "scores"} for p in made["predictions"]] == [True, True]
    assert len(exported) == code_of(name).count("onnx.export")
    if name == "fasterrcnn":
        assert set(made["output"]) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}


@pytest.mark.parametrize(
    ("name", "weights", "key"),
    [
        ("voc_categories", "FCN_ResNet50_Weights.DEFAULT", "categories"),
        ("coco_categories", "FasterRCNN_ResNet50_FPN_Weights.DEFAULT", "categories"),
        ("person_keypoints", "KeypointRCNN_ResNet50_FPN_Weights.DEFAULT", "keypoint_names"),
    ],
)
def test_names(name: str, weights: str, key: str) -> None:
    names = next(value for value in run(name).values() if isinstance(value, list))
    assert get_weight(weights).meta[key] == names


def test_normalize() -> None:
    normalize = run("normalize", transforms=transforms)["normalize"]
    image = torch.rand(3, 4, 5)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    torch.testing.assert_close(normalize(image), (image - mean) / std)


@pytest.mark.parametrize("name", ["statistics", "statistics_2021"])
def test_statistics(name: str, media: Path) -> None:
    def image_net(root: str, split: str, transform: Callable[[Image.Image], Tensor]) -> list[tuple[Tensor, int]]:
        images = [Image.open(media / name).convert("RGB") for name in ("astronaut.png", "coffee.png")]
        return [(transform(image), 0) for image in images]

    # The page itself says that its `subset` is lost.
    made = run(
        name,
        datasets=types.SimpleNamespace(ImageNet=image_net),
        subset=lambda data: [image for image, _ in data],
    )
    pixels = torch.stack([image for image, _ in made["dataset"]])
    assert pixels.shape == (2, 3, 224, 224) and 0 <= pixels.min() < pixels.max() <= 1
    torch.testing.assert_close(made["mean"], pixels.mean())


def hub_script(code: str, data: Path) -> str:
    return f"""
from pathlib import Path
from zoofleet import _catalog
_catalog._DATA = Path({str(data)!r})
CHECKOUT = {str(ROOT)!r}
import sys; sys.path.append(CHECKOUT)
{code}
"""


@pytest.mark.parametrize("name", ["hub", "hub_weights"])
def test_torch_hub_loads_from_a_checkout(name: str, hub: Hub, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(Path(_catalog.__file__).parent, data)
    rows = json.loads((data / "weights.json").read_text())
    state = state_of(zoofleet.models.ResNet50_Weights.IMAGENET1K_V2, "resnet50")
    row = next(row for row in rows if (row["builder"], row["member"]) == ("resnet50", "IMAGENET1K_V2"))
    row["url"] = hub.at(hub.publish(state, stem="resnet50"))
    (data / "weights.json").write_text(json.dumps(rows))
    check = {
        "hub": "print(weights, float(model.fc.bias.detach().sum()))",
        "hub_weights": "import hubconf; print([n for n, v in vars(hubconf).items() if callable(v) and n[0] != '_'])",
    }
    script = hub_script(f"{code_of(name)}\n{check[name]}", data)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    if name == "hub":
        member, total = done.stdout.split()
        assert member == "ResNet50_Weights.IMAGENET1K_V2"
        assert float(total) == pytest.approx(float(state["fc.bias"].sum()), rel=1e-5)
        assert len(hub.requests) == 1
    else:
        first, second = done.stdout.splitlines()
        assert first == "[ResNet50_Weights.IMAGENET1K_V1, ResNet50_Weights.IMAGENET1K_V2]"
        assert set(_catalog.builders()) | {"get_weight", "get_model_weights", "list_models"} == set(eval(second))


def test_torch_hub_needs_no_installed_zoofleet(tmp_path: Path) -> None:
    for entry in Path(torch.__file__).parents[1].iterdir():
        if "zoofleet" not in entry.name:
            (tmp_path / entry.name).symlink_to(entry)
    script = f"""
import importlib.util, sys
from pathlib import Path
# What is installed beside zoofleet stays; an editable install's finder goes.
sys.path = [*(p for p in sys.path if not (Path(p) / "zoofleet").is_dir()), {str(tmp_path)!r}]
sys.meta_path = [f for f in sys.meta_path if not hasattr(f, "known_source_files")]
assert importlib.util.find_spec("zoofleet") is None
import torch
model = torch.hub.load({str(ROOT)!r}, "mobilenet_v3_small", source="local", num_classes=5)
assert torch.hub.load({str(ROOT)!r}, "get_weight", "ResNet18_Weights.DEFAULT", source="local").name == "IMAGENET1K_V1"
import zoofleet
print(zoofleet.__file__, type(model).__name__)
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    libraries = (Path(folder) / "libzoofleet_ops.so" for folder in (*vars(ops)["__path__"], ROOT / "build" / "ops"))
    environment["ZOOFLEET_OPS_LIBRARY"] = str(next(library for library in libraries if library.is_file()))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(ROOT / "src" / "zoofleet" / "__init__.py"), "MobileNetV3"]
