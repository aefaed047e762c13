"""What detectors take, refuse and give; equality with the reference is checked elsewhere."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, get_type_hints

import pytest
import torch
from tests.models.detection import scenes
from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError, InvalidWeightsError, UnknownWeightsError
from zoofleet.models import _hub, get_model, get_model_builder
from zoofleet.models.detection import (
    FCOS,
    SSD,
    AnchorGenerator,
    Detector,
    RetinaNet,
    fasterrcnn_mobilenet_v3_large_320_fpn,
    fasterrcnn_mobilenet_v3_large_fpn,
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
    fcos_resnet50_fpn,
    keypointrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
    paste_masks,
    retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
    ssd300_vgg16,
    ssdlite320_mobilenet_v3_large,
)
from zoofleet.models.detection._options import TransformOptions
from zoofleet.models.detection.backbone_utils import num_trainable_layers, resnet_fpn
from zoofleet.models.detection.faster_rcnn import FasterRCNN, FasterRCNNOptions
from zoofleet.models.ops import FrozenBatchNorm2d
from zoofleet.models.resnet import resnet50

LIMIT = 7


@lru_cache(maxsize=2)  # they are large
def _model(name: str) -> Detector:
    """A detector that gives as many detections as it may."""
    box = "box_" if "rcnn" in name else ""
    return scenes.small(name, **{f"{box}score_thresh": 0.0, f"{box}detections_per_img": LIMIT})


@pytest.fixture(scope="module", params=scenes.NAMES)
def model(request: pytest.FixtureRequest) -> Detector:
    return _model(request.param)


@pytest.fixture
def ssdlite() -> SSD:
    model = _model("ssdlite320_mobilenet_v3_large")
    assert isinstance(model, SSD)
    return model


@torch.inference_mode()
def test_results_are_in_each_images_own_coordinates(model: Detector) -> None:
    results = model(scenes.images())
    assert isinstance(results, list) and len(results) == len(scenes.SIZES)
    for found, (height, width) in zip(results, scenes.SIZES, strict=True):
        boxes, scores, labels = found["boxes"], found["scores"], found["labels"]
        assert boxes.shape == (LIMIT, 4) and scores.shape == labels.shape == (LIMIT,)
        assert (boxes.dtype, scores.dtype, labels.dtype) == (torch.float32, torch.float32, torch.int64)
        assert (boxes >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
        assert (boxes[:, 2:] >= boxes[:, :2]).all()
        if not isinstance(model, FCOS):  # whose sides may lie at no distance from a cell's centre
            assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert scores.equal(scores.sort(descending=True).values) and (scores > 0).all() and (scores <= 1).all()
        # To those that learn background as no class at all it is one like the others until they have learned.
        assert (labels >= (0 if isinstance(model, FCOS | RetinaNet) else 1)).all() and (labels < 91).all()
        if "masks" in found:
            masks = found["masks"]
            assert masks.shape == (LIMIT, 1, height, width) and masks.dtype == torch.float32
            assert masks.min() >= 0 and 0 < masks.max() <= 1
        if "keypoints" in found:
            points = found["keypoints"]
            assert points.shape == (LIMIT, scenes.KEYPOINTS, 3) and (points[..., 2] == 1).all()
            assert found["keypoints_scores"].shape == (LIMIT, scenes.KEYPOINTS)
            # Every keypoint lies in its own box.
            start, end = boxes[:, None, :2], boxes[:, None, 2:]
            assert (points[..., :2] >= start - 1e-3).all() and (points[..., :2] <= end + 1e-3).all()


@torch.inference_mode()
def test_nothing_found_gives_empty_tensors(model: Detector) -> None:
    head: Any = getattr(model, "roi_heads", model)
    before = head.score_thresh
    head.score_thresh = 1.0
    try:
        results = model.predict(scenes.images())
    finally:
        head.score_thresh = before
    shapes = {
        "boxes": (4,),
        "scores": (),
        "labels": (),
        "keypoints": (scenes.KEYPOINTS, 3),
        "keypoints_scores": (scenes.KEYPOINTS,),
    }
    for found, size in zip(results, scenes.SIZES, strict=True):
        assert {key: tuple(value.shape) for key, value in found.items()} == {
            key: (0, *(shapes | {"masks": (1, *size)})[key]) for key in found
        }


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (333, 5)])
@torch.inference_mode()
def test_extreme_shapes_are_taken(model: Detector, size: tuple[int, int]) -> None:
    (found,) = model.predict([torch.rand(3, *size, generator=torch.Generator().manual_seed(0))])
    assert found["boxes"].isfinite().all()
    assert (found["boxes"][:, 2:] <= torch.tensor((size[1], size[0]))).all()


@torch.inference_mode()
def test_half_precision_weights_give_float32_boxes_and_scores(ssdlite: SSD) -> None:
    expected = ssdlite.predict(scenes.images())
    half = scenes.small("ssdlite320_mobilenet_v3_large", score_thresh=0.0, detections_per_img=LIMIT).bfloat16()
    found = half.predict([image.bfloat16() for image in scenes.images()])
    for one, other in zip(found, expected, strict=True):
        assert one["boxes"].dtype == one["scores"].dtype == torch.float32
        torch.testing.assert_close(one["scores"], other["scores"], rtol=0.1, atol=0)


@torch.inference_mode()
def test_images_of_a_batch_do_not_see_each_other(ssdlite: SSD) -> None:
    # Not so for the R-CNNs, whose convolutions see how much padding the largest image brings.
    together = ssdlite.predict(scenes.images())
    for image, expected in zip(scenes.images(), together, strict=True):
        (alone,) = ssdlite.predict([image])
        torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_masks_come_over_their_boxes_if_they_are_not_pasted() -> None:
    model = _model("maskrcnn_resnet50_fpn")
    pasted = model.predict(scenes.images())
    for found, expected, size in zip(
        model.predict(scenes.images(), paste_masks=False), pasted, scenes.SIZES, strict=True
    ):
        assert found["masks"].shape == (LIMIT, 1, 28, 28)
        torch.testing.assert_close(found["boxes"], expected["boxes"])
        torch.testing.assert_close(paste_masks(found["masks"], found["boxes"], size), expected["masks"])


def test_thresholds_and_limits_are_kept(ssdlite: SSD) -> None:
    with torch.inference_mode():
        scores = ssdlite.predict(scenes.images())[0]["scores"]
        bound = scores[LIMIT // 2].item()
        strict = scenes.small("ssdlite320_mobilenet_v3_large", score_thresh=bound, detections_per_img=LIMIT)
        assert strict.predict(scenes.images())[0]["scores"].tolist() == scores[scores > bound].tolist()
        single = scenes.small("ssdlite320_mobilenet_v3_large", score_thresh=0.0, nms_thresh=0.0, topk_candidates=1)
        labels = single.predict(scenes.images())[0]["labels"].tolist()
    assert len(labels) == len(set(labels)) == 90  # one candidate a class


IMAGE = torch.zeros(3, 8, 8)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "non-empty list"),
        (torch.zeros(2, 3, 8, 8), "non-empty list"),
        (None, "non-empty list"),
        ([IMAGE, None], "image 1 must be a tensor, got NoneType"),
        ([torch.zeros(1, 8, 8)], r"image 0 must have shape \(3, H, W\)"),
        ([torch.zeros(8, 8)], r"image 0 must have shape \(3, H, W\)"),
        ([torch.zeros(3, 0, 8)], "H, W > 0"),
        ([IMAGE.byte()], r"floating type, scaled to \[0, 1\], got torch.uint8"),
    ],
)
def test_wrong_images_are_refused(ssdlite: SSD, images: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        ssdlite(images)


BOXES = torch.tensor([[1.0, 1, 5, 5]])
LABELS = torch.ones(1, dtype=torch.int64)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (None, "needs targets"),
        ([], "list of 1, one an image, got a list of 0"),
        ([7], "target 0 must be a dict"),
        ([{"labels": LABELS}], "must have a tensor 'boxes', got NoneType"),
        ([{"boxes": BOXES}], "must have a tensor 'labels'"),
        ([{"boxes": BOXES[0], "labels": LABELS}], r"boxes must be float of shape \(N, 4\)"),
        ([{"boxes": BOXES.long(), "labels": LABELS}], "boxes must be float"),
        ([{"boxes": BOXES[:, [2, 1, 0, 3]], "labels": LABELS}], r"x1 > x0 and y1 > y0, got \[5.0, 1.0, 1.0, 5.0\]"),
        ([{"boxes": BOXES * torch.nan, "labels": LABELS}], "must be finite"),
        ([{"boxes": BOXES * torch.tensor([1, 1, torch.inf, 1]), "labels": LABELS}], "must be finite"),
        ([{"boxes": BOXES, "labels": LABELS.float()}], "labels must be int64"),
        ([{"boxes": BOXES, "labels": LABELS.repeat(2)}], r"labels must be int64 of shape \(1,\)"),
        ([{"boxes": BOXES, "labels": LABELS * 91}], r"labels must be in \[0, 91\), got 91"),
        ([{"boxes": BOXES, "labels": -LABELS}], r"labels must be in \[0, 91\), got -1"),
        ([{"boxes": BOXES, "labels": LABELS, "masks": torch.zeros(1, 4, 4).byte()}], r"masks .* \(1, 8, 8\)"),
        ([{"boxes": BOXES, "labels": LABELS, "masks": torch.zeros(1, 8, 8)}], "masks must be uint8 or bool"),
        ([{"boxes": BOXES, "labels": LABELS, "keypoints": torch.zeros(1, 17, 2)}], r"keypoints .* \(1, K, 3\)"),
    ],
)
def test_wrong_targets_are_refused(ssdlite: SSD, targets: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        ssdlite.losses([IMAGE], targets)


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        ("maskrcnn_resnet50_fpn", "masks", "every target must have masks"),
        ("keypointrcnn_resnet50_fpn", "keypoints", "every target must have keypoints"),
    ],
)
def test_targets_of_a_branch_are_demanded(name: str, key: str, message: str) -> None:
    model = _model(name)
    targets = scenes.targets()
    with pytest.raises(InvalidArgumentError, match=message):
        model.losses(scenes.images(), [targets[0], {k: v for k, v in targets[1].items() if k != key}])
    if key == "keypoints":
        targets[1]["keypoints"] = targets[1]["keypoints"][:, :5]
        with pytest.raises(InvalidArgumentError, match=r"\(N, 17, 3\), got 5"):
            model.losses(scenes.images(), targets)


@pytest.mark.parametrize(
    ("builder", "options", "message"),
    [
        (ssdlite320_mobilenet_v3_large, {"size": 300}, "no option is named size"),
        (ssdlite320_mobilenet_v3_large, {"box_score_thresh": 0.5}, "no option is named box_score_thresh"),
        (ssdlite320_mobilenet_v3_large, {"score_thresh": 1.5}, r"score_thresh must be in \[0, 1\], got 1.5"),
        (ssdlite320_mobilenet_v3_large, {"nms_thresh": None}, "nms_thresh"),
        (ssdlite320_mobilenet_v3_large, {"detections_per_img": 0}, "positive integer, got 0"),
        (ssdlite320_mobilenet_v3_large, {"image_std": (1, 1, 0)}, "image_std"),
        (ssdlite320_mobilenet_v3_large, {"image_mean": (1, 1)}, "image_mean"),
        (ssdlite320_mobilenet_v3_large, {"num_classes": 0}, "num_classes must be a positive integer, got 0"),
        (ssdlite320_mobilenet_v3_large, {"trainable_backbone_layers": 7}, r"must be in \[0, 6\], got 7"),
        (maskrcnn_resnet50_fpn, {"score_thresh": 0.5}, "no option is named score_thresh"),
        (maskrcnn_resnet50_fpn, {"rpn_nms_thresh": -1}, "nms_thresh"),
        (maskrcnn_resnet50_fpn, {"min_size": 0}, "min_size must be a positive integer, got 0"),
        (maskrcnn_resnet50_fpn, {"min_size": ()}, "min_size"),
        (maskrcnn_resnet50_fpn, {"trainable_backbone_layers": -1}, r"must be in \[0, 5\], got -1"),
        (keypointrcnn_resnet50_fpn, {"num_keypoints": 0}, "num_keypoints must be a positive integer"),
        (fasterrcnn_mobilenet_v3_large_fpn, {"trainable_backbone_layers": 7}, r"must be in \[0, 6\], got 7"),
        (fasterrcnn_resnet50_fpn_v2, {"num_classes": "2"}, "num_classes must be a positive integer, got '2'"),
        (ssd300_vgg16, {"min_size": 300}, "no option is named min_size"),
        (ssd300_vgg16, {"trainable_backbone_layers": 6}, r"must be in \[0, 5\], got 6"),
        (retinanet_resnet50_fpn, {"rpn_nms_thresh": 0.5}, "no option is named rpn_nms_thresh"),
        (retinanet_resnet50_fpn, {"topk_candidates": 0}, "topk_candidates must be a positive integer, got 0"),
        (retinanet_resnet50_fpn_v2, {"fg_iou_thresh": 2}, r"fg_iou_thresh must be in \[0, 1\], got 2"),
        (retinanet_resnet50_fpn, {"num_classes": 0}, "num_classes must be a positive integer, got 0"),
        (retinanet_resnet50_fpn_v2, {"num_classes": 1.5}, "num_classes must be a positive integer, got 1.5"),
        (ssd300_vgg16, {"num_classes": -1}, "num_classes must be a positive integer, got -1"),
        (fcos_resnet50_fpn, {"num_classes": 0}, "num_classes must be a positive integer, got 0"),
        (fcos_resnet50_fpn, {"fg_iou_thresh": 0.5}, "no option is named fg_iou_thresh"),
        (fcos_resnet50_fpn, {"center_sampling_radius": 0}, "center_sampling_radius must be above 0, got 0"),
        (
            fcos_resnet50_fpn,
            {"anchor_generator": AnchorGenerator(sizes=((8, 16),) * 5, aspect_ratios=((1.0,),) * 5)},
            r"one anchor at each cell, got \[2, 2, 2, 2, 2\] by map",
        ),
    ],
)
def test_wrong_options_are_refused(builder: Callable[..., Detector], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message), torch.device("meta"):
        builder(weights_backbone=None, **options)


def test_options_reach_their_places() -> None:
    model: Any = maskrcnn_resnet50_fpn(
        weights_backbone=None,
        num_classes=3,
        min_size=(100, 200),
        max_size=300,
        rpn_post_nms_top_n_test=50,
        box_nms_thresh=0.25,
        bbox_reg_weights=(1.0, 2.0, 3.0, 4.0),
    )
    assert (model.transform.min_size, model.transform.max_size) == ((100, 200), 300)
    assert model.rpn.post_nms_top_n == {"training": 2000, "testing": 50}
    assert (model.roi_heads.nms_thresh, model.roi_heads.score_thresh) == (0.25, 0.05)
    assert model.roi_heads.box_coder.weights == (1.0, 2.0, 3.0, 4.0)
    shapes = {key: len(value) for key, value in model.state_dict().items() if value.dim()}
    assert shapes["roi_heads.box_predictor.cls_score.weight"] == 3
    assert shapes["roi_heads.box_predictor.bbox_pred.weight"] == 12
    assert shapes["roi_heads.mask_predictor.mask_fcn_logits.weight"] == 3


@pytest.mark.parametrize(
    ("builder", "defaults"),
    [
        (fasterrcnn_resnet50_fpn, {}),
        (fasterrcnn_mobilenet_v3_large_fpn, {"rpn_score_thresh": 0.05}),
        (
            fasterrcnn_mobilenet_v3_large_320_fpn,
            {
                "min_size": 320,
                "max_size": 640,
                "rpn_score_thresh": 0.05,
                "rpn_pre_nms_top_n_test": 150,
                "rpn_post_nms_top_n_test": 150,
            },
        ),
        (retinanet_resnet50_fpn, {"score_thresh": 0.05, "nms_thresh": 0.5, "detections_per_img": 300}),
        (fcos_resnet50_fpn, {"score_thresh": 0.2, "nms_thresh": 0.6, "detections_per_img": 100}),
        (ssd300_vgg16, {"score_thresh": 0.01, "nms_thresh": 0.45, "detections_per_img": 200}),
    ],
)
def test_defaults_are_the_published_models(builder: Callable[..., Detector], defaults: dict[str, Any]) -> None:
    with torch.device("meta"):
        model, told = builder(weights_backbone=None), builder(weights_backbone=None, **defaults)
        other = builder(weights_backbone=None, image_mean=(0.5, 0.5, 0.5))
    assert _settings(model.transform) == _settings(told.transform)
    parts = [getattr(m, "rpn", m) for m in (model, told)]
    assert _settings(parts[0]) == _settings(parts[1])
    assert other.transform.image_mean == (0.5, 0.5, 0.5) != model.transform.image_mean


def _settings(module: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(module).items() if not key.startswith("_")}


def test_subclasses_take_every_option_of_faster_rcnn() -> None:
    passed_on = get_type_hints(FasterRCNNOptions)
    own = [name for name in inspect.signature(FasterRCNN).parameters if name != "options"]
    assert [*passed_on] == [*get_type_hints(TransformOptions), *own[3:-1]]  # after min_size, and without the branches


def test_options_of_the_transform_are_the_detectors_too() -> None:
    with torch.device("meta"):
        model = fcos_resnet50_fpn(weights_backbone=None, size_divisible=64, fixed_size=(100, 90))
    assert (model.transform.size_divisible, model.transform.fixed_size) == (64, (100, 90))


def test_anchors_are_an_option() -> None:
    few = AnchorGenerator(sizes=((16, 32),) * 5, aspect_ratios=((1.0,),) * 5)
    with torch.device("meta"):
        models = [
            builder(weights_backbone=None, anchor_generator=few)
            for builder in (retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2)
        ]
        rcnns = [
            builder(weights_backbone=None, rpn_anchor_generator=few)
            for builder in (fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2, maskrcnn_resnet50_fpn_v2)
        ]
    assert {m.state_dict()["head.regression_head.bbox_reg.bias"].numel() for m in models} == {2 * 4}
    assert {m.state_dict()["rpn.head.bbox_pred.bias"].numel() for m in rcnns} == {2 * 4}


def test_only_trained_backbones_are_frozen() -> None:
    assert num_trainable_layers(None, is_trained=True, most=5, default=3) == 3
    assert num_trainable_layers(0, is_trained=True, most=5, default=3) == 0
    assert num_trainable_layers(None, is_trained=False, most=5, default=3) == 5
    with pytest.warns(UserWarning, match="trainable_backbone_layers=2 has no effect"):
        assert num_trainable_layers(2, is_trained=False, most=5, default=3) == 5


@pytest.mark.parametrize(
    ("layers", "trained"),
    [
        (0, set()),
        (2, {"layer3", "layer4"}),
        (5, {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}),
    ],
)
def test_backbone_is_frozen_from_its_first_layers_on(layers: int, trained: set[str]) -> None:
    with torch.device("meta"):
        backbone = resnet_fpn(resnet50(), layers)
    assert {key.split(".")[0] for key, p in backbone.body.named_parameters() if p.requires_grad} == trained
    assert all(p.requires_grad for p in backbone.fpn.parameters())


@pytest.mark.parametrize(
    ("name", "layers", "first_trained"),
    [
        ("fasterrcnn_mobilenet_v3_large_fpn", None, 7),
        ("fasterrcnn_mobilenet_v3_large_fpn", 0, 17),
        ("fasterrcnn_mobilenet_v3_large_fpn", 6, 0),
        ("ssd300_vgg16", None, 5),
        ("ssd300_vgg16", 2, 17),
    ],
)
def test_other_backbones_are_frozen_from_their_first_layers_on(
    monkeypatch: pytest.MonkeyPatch, name: str, layers: int | None, first_trained: int
) -> None:
    state = get_model(name, weights=None, weights_backbone=None).state_dict()
    monkeypatch.setattr(_hub, "load_state_dict", lambda *_, **__: dict(state))
    model = get_model(name, weights="DEFAULT", trainable_backbone_layers=layers)
    trained = {
        int(key.split(".")[2]): p.requires_grad
        for key, p in model.named_parameters()
        if key.startswith(("backbone.body.", "backbone.features."))
    }
    assert trained == {index: index >= first_trained for index in trained}
    assert all(p.requires_grad for key, p in model.named_parameters() if not key.startswith("backbone."))


def _as_first_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under the names that the first detectors were published with."""
    renamed = {}
    for key, value in state.items():
        key = re.sub(r"(rpn\.head\.conv)\.0\.0\.", r"\1.", key)
        key = re.sub(r"(fpn\.\w+_blocks\.\d)\.0\.", r"\1.", key)
        key = re.sub(r"(head\.\w+_head\.conv)\.(\d)\.0\.", lambda m: f"{m[1]}.{2 * int(m[2])}.", key)
        renamed[re.sub(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", key)] = value
    return renamed


@pytest.mark.parametrize(
    ("name", "weights", "eps"),
    [
        ("fasterrcnn_resnet50_fpn", "COCO_V1", 0.0),
        ("fcos_resnet50_fpn", "COCO_V1", 1e-5),
        ("keypointrcnn_resnet50_fpn", "COCO_V1", 0.0),
        ("keypointrcnn_resnet50_fpn", "COCO_LEGACY", 1e-5),
        ("maskrcnn_resnet50_fpn", "COCO_V1", 0.0),
        ("retinanet_resnet50_fpn", "COCO_V1", 0.0),
    ],
)
def test_published_weights_fit(monkeypatch: pytest.MonkeyPatch, name: str, weights: str, eps: float) -> None:
    # The published files are too large to keep; theirs are the keys that count.
    current = _model(name).state_dict()
    # FCOS came with today's names but for the pyramid's.
    state = _as_first_published(current)
    assert "backbone.fpn.inner_blocks.0.bias" in state and "roi_heads.mask_head.0.0.weight" not in state
    assert ("rpn.head.conv.weight" in state) == ("rcnn" in name)
    assert ("head.regression_head.conv.6.weight" in state) == ("rcnn" not in name)
    monkeypatch.setattr(_hub, "load_state_dict", lambda *_, **__: dict(state))
    model = get_model(name, weights=weights)
    for key, value in model.state_dict().items():
        assert value.equal(current[key]), key
    norms = [m for m in model.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(norms) == 53 and {norm.eps for norm in norms} == {eps}
    assert {key.split(".")[2] for key, p in model.named_parameters() if not p.requires_grad} == {"conv1", "layer1"}

    state["backbone.fpn.more"] = torch.zeros(1)
    with pytest.raises(InvalidWeightsError, match=r"backbone\.fpn\.more"):
        get_model(name, weights=weights)


@pytest.mark.parametrize(
    "name", ["fasterrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn_v2", "retinanet_resnet50_fpn_v2"]
)
def test_second_versions_keep_renewing_batch_norms(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    state = _model(name).state_dict()
    monkeypatch.setattr(_hub, "load_state_dict", lambda *_, **__: dict(state))
    model = get_model(name, weights="DEFAULT")
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in model.modules())
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()) >= 53
    assert isinstance(model, RetinaNet) == name.startswith("retinanet")
    assert get_model_builder(name)(weights=None, num_classes=2) is not None  # no weights of a backbone are asked for


@pytest.mark.parametrize("name", scenes.NAMES)
def test_weights_that_do_not_fit_the_arguments_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"has num_classes=(91|2), got 5"):
        get_model(name, weights="DEFAULT", num_classes=5)
    with pytest.raises(UnknownWeightsError, match="COCO_V1"):
        get_model(name, weights="IMAGENET1K_V1")
    if "keypoint" in name:
        with pytest.raises(InvalidArgumentError, match="has num_keypoints=17, got 5"):
            get_model(name, weights="DEFAULT", num_keypoints=5)
