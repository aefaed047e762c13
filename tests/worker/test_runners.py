"""What the runners spare the models, with real models and no more than that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from zoofleet._catalog import ModelName
from zoofleet._values.results import Detections, Flow, Segmentation
from zoofleet.models import get_model, transforms
from zoofleet.models.optical_flow import raft
from zoofleet.worker import WorkerConfig
from zoofleet.worker.plan import EXACT
from zoofleet.worker.runner import Prepared, Runner
from zoofleet.worker.runners import published, runner_type

CONFIG = WorkerConfig(schedulers=(), device="cpu")


def runner_of(builder: str, **options: Any) -> Runner[Any]:
    """A runner of a model with random weights, built with options that make it small."""
    torch.manual_seed(0)
    name = ModelName.parse(f"{builder}@random")
    module = get_model(builder, weights=None, **options).eval().requires_grad_(False)
    preset = transforms.preset(published(name).transforms)()
    return runner_type(name)(name, module, preset, torch.device("cpu"), CONFIG)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def sizes_of_calls(module: nn.Module) -> list[int]:
    """The length of the first argument of each call from here on."""
    sizes: list[int] = []
    module.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    return sizes


SMALL = {"weights_backbone": None, "min_size": 96, "max_size": 128, "rpn_post_nms_top_n_test": 50}


@pytest.mark.parametrize(
    ("builder", "head", "extra"),
    [("maskrcnn_resnet50_fpn", "mask_head", "rles"), ("keypointrcnn_resnet50_fpn", "keypoint_head", "keypoints")],
)
def test_heads_run_for_the_boxes_that_each_item_wants(builder: str, head: str, extra: str) -> None:
    runner = runner_of(builder, box_score_thresh=0.0, box_detections_per_img=12, **SMALL)
    images = [picture(96, 96), picture(90, 96, seed=1), picture(96, 96, seed=2)]
    everything = runner.options(score_threshold=0.0, max_detections=1000)
    calls = sizes_of_calls(getattr(runner.module.roi_heads, head))
    batch = [runner.prepare([image], everything) for image in images]
    all_found = runner.forward(batch, EXACT)
    (total,) = calls
    assert total == sum(len(raw["boxes"]) for raw in all_found) > 30

    threshold = float(all_found[1]["scores"][4])
    wanted = [
        runner.options(score_threshold=0.0, max_detections=3),
        runner.options(score_threshold=threshold, max_detections=1000),
        runner.options(score_threshold=1.0, max_detections=1000),
    ]
    batch = [runner.prepare([image], options) for image, options in zip(images, wanted, strict=True)]
    found = runner.forward(batch, EXACT)
    assert calls[1:] == [3 + 5 + 0]
    for raw, reference, count in zip(found, all_found, (3, 5, 0), strict=True):
        for name in ("boxes", "labels", "scores"):
            assert torch.equal(raw[name], reference[name][:count])
        for name in raw.keys() - {"boxes", "labels", "scores"}:
            # Matrices of another size may be added up in another order.
            torch.testing.assert_close(raw[name], reference[name][:count], rtol=1e-4, atol=1e-4)
    outcome = runner.finish(batch[0], found[0], wanted[0])
    assert isinstance(outcome, Detections) and len(outcome) == 3
    assert len(getattr(outcome, extra)) == 3


SIZES = [(320, 240), (316, 240), (300, 240), (240, 320), (640, 9), (640, 12), (640, 20), (9, 640), (2000, 1), (320, 12)]


def alone_and_together(runner: Runner[Any], items: Sequence[Prepared]) -> None:
    """Check that an item's detections do not hang on which other item of its key is with it."""
    for first in items:
        # A batch of the same number of images: a library may add up in another order for another one.
        (expected, _) = runner.forward([first, first], EXACT)
        for other in items:
            (found, _) = runner.forward([first, other], EXACT)
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("builder", ["fasterrcnn_mobilenet_v3_large_320_fpn", "fcos_resnet50_fpn"])
def test_detections_of_a_batch_of_one_padded_size_equal_those_of_an_image_alone(builder: str) -> None:
    small = SMALL | {"min_size": 64, "max_size": 160} if builder.startswith("fcos") else {"weights_backbone": None}
    small.pop("rpn_post_nms_top_n_test", None)
    runner = runner_of(builder, **small)
    runner.module.score_thresh = 0.0
    options = runner.options(score_threshold=0.0, max_detections=1000)
    groups: dict[tuple[int, ...], list[Prepared]] = {}
    for seed, size in enumerate(SIZES):
        prepared = runner.prepare([picture(*size, seed=seed)], options)
        groups.setdefault(prepared.key, []).append(prepared)
    shared = [items for items in groups.values() if len(items) > 1]
    assert sum(map(len, shared)) >= 4
    assert any(len({item.image_size for item in items}) > 1 for items in shared)
    for items in shared:
        alone_and_together(runner, items)


def test_strips_whose_scales_would_be_rounded_otherwise_have_keys_of_their_own() -> None:
    runner = runner_of("fasterrcnn_mobilenet_v3_large_320_fpn", weights_backbone=None)
    options = runner.options(score_threshold=0.0, max_detections=1000)
    # Resized by half, to heights of 17 and 32 pixels: both are padded to 32.
    low, high = (runner.prepare([picture(1280, height, seed=height)], options) for height in (34, 64))
    assert low.key[:2] == high.key[:2] == (32, 640)
    assert low.key != high.key
    runner.module.roi_heads.score_thresh = 0.0
    (alone, _), (together, _) = (runner.forward([low, other], EXACT) for other in (low, high))
    assert not torch.equal(alone["boxes"], together["boxes"])


def test_detectors_of_a_fixed_size_batch_images_of_all_sizes() -> None:
    runner = runner_of("ssdlite320_mobilenet_v3_large", weights_backbone=None)
    options = runner.options(score_threshold=0.5, max_detections=10)
    assert len({runner.prepare([picture(*size)], options).key for size in SIZES}) == 1


def test_segmenters_run_without_an_auxiliary_head() -> None:
    expected = runner_of("fcn_resnet50", weights_backbone=None, aux_loss=False)
    torch.manual_seed(0)
    module = get_model("fcn_resnet50", weights=None, weights_backbone=None, aux_loss=True).eval()
    calls = sizes_of_calls(module.get_submodule("aux_classifier"))
    module.load_state_dict(expected.module.state_dict(), strict=False)
    arguments = (ModelName.parse("fcn_resnet50@random"), module, expected._preset, torch.device("cpu"), CONFIG)
    runner = type(expected)(*arguments)
    labels = []
    for each in (runner, expected):
        prepared = Prepared((torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(0)),), (50, 70), (), 1)
        (raw,) = each.forward([prepared], EXACT)
        assert raw["label_map"].dtype == torch.uint8
        outcome = each.finish(prepared, raw, each.options())
        assert isinstance(outcome, Segmentation)
        labels.append(outcome.label_map)
    np.testing.assert_array_equal(labels[0], labels[1])
    assert not calls
    assert not any(name.startswith("aux_classifier") for name in runner.module.state_dict())


@pytest.mark.parametrize(
    ("builder", "function"), [("raft_large", "_upsample_convex"), ("raft_small", "_upsample_bilinear")]
)
def test_flow_is_upsampled_once(builder: str, function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = runner_of(builder)
    prepared = runner.prepare([picture(136, 128), picture(136, 128, seed=1)], runner.options(num_flow_updates=3))
    flows = runner.module(*(image[None] for image in prepared.inputs), 3)
    assert len(flows) == 3
    calls = []
    upsample = getattr(raft, function)

    def counted(*arguments: Tensor) -> Tensor:
        calls.append(arguments)
        flow: Tensor = upsample(*arguments)
        return flow

    monkeypatch.setattr(raft, function, counted)
    (raw,) = runner.forward([prepared], EXACT)
    assert len(calls) == 1
    assert torch.equal(raw["flow"], flows[-1][0])
    outcome = runner.finish(prepared, raw, runner.options(num_flow_updates=3))
    assert isinstance(outcome, Flow)
    np.testing.assert_array_equal(outcome.flow, flows[-1][0].numpy())
