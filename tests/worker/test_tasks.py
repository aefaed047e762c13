"""Each kind of task over real gRPC, against the zoo run directly in this process."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.worker.calls import item, run
from torch.nn import functional

from zoofleet import _catalog
from zoofleet._catalog import ModelName
from zoofleet._media.videos import sampled
from zoofleet._values.results import Classification, Detections, Flow, Segmentation
from zoofleet._wire.kinds import TaskKind
from zoofleet.models import get_model, transforms
from zoofleet.models.ops import upsampled_argmax
from zoofleet.v1 import vision_pb2
from zoofleet.worker import Worker


def direct(builder: str, **options: Any) -> tuple[Any, Callable[..., Any]]:
    """The model that a worker hosts as `builder@random`, and its preset."""
    torch.manual_seed(0)
    model = get_model(builder, weights=None, **options).eval()
    published = next(w for w in _catalog.weights(builder) if w.default)
    return model, transforms.preset(published.transforms)()


@pytest.mark.parametrize(
    ("builder", "options"), [("mobilenet_v3_large", {}), ("quantized_mobilenet_v2", {"quantize": True})]
)
async def test_classify(worker: Worker, media: Path, builder: str, options: dict[str, Any]) -> None:
    names = ["rocket.jpg", "chelsea.png", "coffee.png", "astronaut.png"]
    task = vision_pb2.Task(model=f"{builder}@random")
    task.classify.top_k = 1000
    items = [item((media / name).read_bytes(), item_id=name) for name in names]
    results = await run(worker.address, TaskKind.CLASSIFY, task, items)

    model, preset = direct(builder, **options)
    categories = _catalog.categories(ModelName.parse(f"{builder}@random"))
    assert results.keys() == set(names)
    for name in names:
        with torch.inference_mode():
            expected = model(preset(Image.open(media / name))[None]).softmax(dim=1)[0].numpy()
        found = results[name].outcome
        assert isinstance(found, Classification)
        np.testing.assert_allclose(found.scores, expected[found.labels], rtol=1e-5)
        assert (np.diff(found.scores) <= 0).all()
        assert sorted(found.labels) == list(range(1000))
        assert found.categories == tuple(categories[i] for i in found.labels)
        assert results[name].model == f"{builder}@random"
        assert results[name].duration > 0


async def test_segment(worker: Worker, media: Path) -> None:
    task = vision_pb2.Task(model="lraspp_mobilenet_v3_large@random")
    results = await run(worker.address, TaskKind.SEGMENT, task, [item((media / "rocket.jpg").read_bytes())])

    model, preset = direct("lraspp_mobilenet_v3_large", weights_backbone=None)
    with torch.inference_mode():
        logits = model(preset(Image.open(media / "rocket.jpg"))[None])["out"]
        expected = functional.interpolate(logits, (427, 640), mode="bilinear", align_corners=False)[0].argmax(dim=0)
    found = results["0"].outcome
    assert isinstance(found, Segmentation)
    assert found.label_map.shape == (427, 640)
    # Where two categories are nearly equal, rounding decides.
    assert (found.label_map == expected.numpy()).mean() > 0.999
    assert found.categories[0] == "__background__" and len(found.categories) == 21


@pytest.mark.parametrize("size", [(427, 640), (37, 53), (520, 780), (3000, 2000)])
def test_label_maps_of_any_size_equal_those_of_upsampled_logits(size: tuple[int, int]) -> None:
    logits = torch.randn(21, 65, 98, generator=torch.Generator().manual_seed(0))
    expected = functional.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0].argmax(dim=0)
    assert (upsampled_argmax(logits, size) == expected).float().mean() > 0.9999


async def test_detect_boxes(worker: Worker, media: Path) -> None:
    task = vision_pb2.Task(model="ssdlite320_mobilenet_v3_large@random")
    task.detect.score_threshold = 0.0
    task.detect.max_detections = 7
    items = [item((media / name).read_bytes(), item_id=name) for name in ("coffee.png", "rocket.jpg")]
    results = await run(worker.address, TaskKind.DETECT, task, items)

    model, preset = direct("ssdlite320_mobilenet_v3_large", weights_backbone=None)
    for name, size in (("coffee.png", (400, 600)), ("rocket.jpg", (427, 640))):
        with torch.inference_mode():
            expected = model([preset(Image.open(media / name))])[0]
        found = results[name].outcome
        assert isinstance(found, Detections)
        assert found.image_size == size
        assert len(found) == 7
        np.testing.assert_allclose(found.scores, expected["scores"][:7], rtol=1e-4)
        np.testing.assert_allclose(found.boxes, expected["boxes"][:7], atol=0.05)
        np.testing.assert_array_equal(found.labels, expected["labels"][:7])
        assert found.rles is None and found.keypoints is None

    task.detect.score_threshold = 1.0
    none = (await run(worker.address, TaskKind.DETECT, task, items))["coffee.png"].outcome
    assert isinstance(none, Detections) and len(none) == 0


def strip(path: Path) -> bytes:
    """A long, narrow piece of a photograph, which R-CNNs do not enlarge as much as a square one."""
    buffer = io.BytesIO()
    Image.open(path).crop((0, 150, 400, 190)).save(buffer, "PNG")
    return buffer.getvalue()


async def test_detect_masks(worker: Worker, media: Path) -> None:
    picture = strip(media / "coffee.png")
    task = vision_pb2.Task(model="maskrcnn_resnet50_fpn@random")
    task.detect.score_threshold = 0.0
    task.detect.max_detections = 3
    results = await run(worker.address, TaskKind.DETECT, task, [item(picture)])
    task.detect.mask_encoding = vision_pb2.MASK_ENCODING_PNG
    as_png = (await run(worker.address, TaskKind.DETECT, task, [item(picture)]))["0"].outcome

    model, preset = direct("maskrcnn_resnet50_fpn", weights_backbone=None)
    with torch.inference_mode():
        expected = model([preset(Image.open(io.BytesIO(picture)))])[0]
    found = results["0"].outcome
    assert isinstance(found, Detections) and isinstance(as_png, Detections)
    assert len(found) == 3
    np.testing.assert_allclose(found.boxes, expected["boxes"][:3], atol=0.05)
    masks = found.masks
    assert masks is not None and masks.shape == (3, 40, 400)
    assert masks.any()
    assert (masks == (expected["masks"][:3, 0] > 0.5).numpy()).mean() > 0.99
    assert as_png.masks is not None
    np.testing.assert_array_equal(as_png.masks, masks)


async def test_detect_keypoints(worker: Worker, media: Path) -> None:
    picture = strip(media / "astronaut.png")
    task = vision_pb2.Task(model="keypointrcnn_resnet50_fpn@random")
    task.detect.score_threshold = 0.0
    task.detect.max_detections = 2
    results = await run(worker.address, TaskKind.DETECT, task, [item(picture)])

    model, preset = direct("keypointrcnn_resnet50_fpn", weights_backbone=None)
    with torch.inference_mode():
        expected = model([preset(Image.open(io.BytesIO(picture)))])[0]
    found = results["0"].outcome
    assert isinstance(found, Detections)
    assert found.keypoints is not None and found.keypoint_scores is not None
    assert found.keypoints.shape == (2, 17, 3) and found.keypoint_scores.shape == (2, 17)
    np.testing.assert_allclose(found.keypoint_scores, expected["keypoints_scores"][:2], rtol=1e-3, atol=1e-3)
    assert found.keypoint_names[0] == "nose" and len(found.keypoint_names) == 17


async def test_classify_clip(worker: Worker, clip: bytes) -> None:
    task = vision_pb2.Task(model="r3d_18@random")
    task.classify_clip.num_frames = 4
    task.classify_clip.top_k = 3
    results = await run(worker.address, TaskKind.CLASSIFY_CLIP, task, [item(clip)])

    model, preset = direct("r3d_18")
    frames = torch.stack([torch.from_numpy(np.array(image)) for image in sampled(io.BytesIO(clip), 4, 10**6)])
    with torch.inference_mode():
        expected = model(preset(frames.permute(0, 3, 1, 2))[None]).softmax(dim=1)[0].topk(3)
    found = results["0"].outcome
    assert isinstance(found, Classification)
    np.testing.assert_array_equal(found.labels, expected.indices)
    np.testing.assert_allclose(found.scores, expected.values, rtol=1e-4)
    assert found.categories[0] in _catalog.categories(ModelName.parse("r3d_18@random"))


@pytest.mark.parametrize(
    ("encoding", "tolerance"),
    [
        (vision_pb2.FLOW_ENCODING_FLOAT16, 0.02),
        (vision_pb2.FLOW_ENCODING_FLO, 0.005),
        (vision_pb2.FLOW_ENCODING_KITTI_PNG, 0.02),
    ],
)
async def test_estimate_flow(
    worker: Worker, media: Path, encoding: vision_pb2.FlowEncoding.ValueType, tolerance: float
) -> None:
    pair = [Image.open(media / name).convert("RGB").resize((150, 100)) for name in ("chelsea.png", "coffee.png")]
    encoded = []
    for image in pair:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    task = vision_pb2.Task(model="raft_small@random")
    task.estimate_flow.num_flow_updates = 2
    task.estimate_flow.flow_encoding = encoding
    results = await run(worker.address, TaskKind.ESTIMATE_FLOW, task, [item(*encoded)])

    model, preset = direct("raft_small")
    with torch.inference_mode():
        padded = [functional.pad(x[None], (0, 2, 0, 28), mode="replicate") for x in preset(*pair)]
        expected = model(*padded, num_flow_updates=2)[-1][0, :, :100, :150].numpy()
    found = results["0"].outcome
    assert isinstance(found, Flow)
    assert found.flow.shape == (2, 100, 150)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found.flow, expected, atol=tolerance, rtol=1e-3)
