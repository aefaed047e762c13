"""What fine-tuning code does with the reference's parts works: replaced heads, composed detectors, extracted features.

Each model then trains for a step, with a gradient in what was replaced, and answers with the new number of classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tests.models.detection import scenes
from torch import Tensor, nn

from zoofleet import models, ops
from zoofleet.errors import InvalidArgumentError
from zoofleet.models import detection, segmentation
from zoofleet.models._utils import IntermediateLayerGetter
from zoofleet.models.detection import _utils as det_utils
from zoofleet.models.detection import faster_rcnn, keypoint_rcnn, mask_rcnn, rpn, ssd, ssdlite
from zoofleet.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from zoofleet.models.detection.fcos import FCOS, FCOSClassificationHead
from zoofleet.models.detection.image_list import ImageList
from zoofleet.models.detection.retinanet import RetinaNet, RetinaNetClassificationHead
from zoofleet.models.detection.roi_heads import RoIHeads
from zoofleet.models.detection.transform import GeneralizedRCNNTransform
from zoofleet.models.feature_extraction import create_feature_extractor, get_graph_node_names
from zoofleet.models.segmentation.deeplabv3 import DeepLabHead
from zoofleet.models.segmentation.fcn import FCNHead

CLASSES = 4
SMALL: dict[str, Any] = {"weights": None, "weights_backbone": None, "min_size": 64, "max_size": 96}
RANDOM: dict[str, Any] = {"weights": None, "weights_backbone": None}


def fast_rcnn_predictor() -> tuple[Any, nn.Module]:
    model: Any = detection.fasterrcnn_mobilenet_v3_large_fpn(**SMALL)
    in_features = model.roi_heads.box_predictor.cls_score.in_features
    model.roi_heads.box_predictor = faster_rcnn.FastRCNNPredictor(in_features, CLASSES)
    return model, model.roi_heads.box_predictor


def mask_rcnn_predictor() -> tuple[Any, nn.Module]:
    model: Any = detection.maskrcnn_resnet50_fpn(**SMALL, box_batch_size_per_image=8)
    in_features = model.roi_heads.box_predictor.cls_score.in_features
    model.roi_heads.box_predictor = faster_rcnn.FastRCNNPredictor(in_features, CLASSES)
    in_features_mask = model.roi_heads.mask_predictor.conv5_mask.in_channels
    model.roi_heads.mask_predictor = mask_rcnn.MaskRCNNPredictor(in_features_mask, 256, CLASSES)
    return model, model.roi_heads.mask_predictor


def keypoint_rcnn_predictor() -> tuple[Any, nn.Module]:
    heads = keypoint_rcnn.KeypointRCNNHeads(256, (64,))
    model: Any = keypoint_rcnn.KeypointRCNN(
        resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5),
        num_classes=2,
        min_size=64,
        max_size=96,
        keypoint_head=heads,
        keypoint_predictor=keypoint_rcnn.KeypointRCNNPredictor(64, scenes.KEYPOINTS),
    )
    return model, heads


def composed() -> tuple[Any, nn.Module]:
    backbone: Any = models.mobilenet_v2(weights=None).features
    backbone.out_channels = 1280
    model: Any = faster_rcnn.FasterRCNN(
        backbone,
        num_classes=CLASSES,
        min_size=64,
        max_size=96,
        rpn_anchor_generator=rpn.AnchorGenerator(sizes=((32, 64, 128),), aspect_ratios=((0.5, 1.0, 2.0),)),
        box_roi_pool=ops.MultiScaleRoIAlign(featmap_names=["0"], output_size=7, sampling_ratio=2),
    )
    return model, model.rpn


def generalized() -> tuple[Any, nn.Module]:
    backbone = mobilenet_backbone(backbone_name="mobilenet_v3_small", weights=None, fpn=False, trainable_layers=2)
    anchors = detection.anchor_utils.AnchorGenerator(sizes=(32,), aspect_ratios=(0.5, 1.0))
    proposals = rpn.RegionProposalNetwork(
        anchors,
        rpn.RPNHead(256, 2),
        0.7,
        0.3,
        64,
        0.5,
        {"training": 200, "testing": 100},
        {"training": 100, "testing": 50},
        0.7,
    )
    heads = RoIHeads(
        ops.MultiScaleRoIAlign(["0"], 7, 2),
        faster_rcnn.TwoMLPHead(256 * 49, 32),
        faster_rcnn.FastRCNNPredictor(32, CLASSES),
        0.5,
        0.5,
        16,
        0.25,
        None,
        0.05,
        0.5,
        10,
    )
    transform = GeneralizedRCNNTransform(64, 96, [0.5] * 3, [0.25] * 3)
    return detection.generalized_rcnn.GeneralizedRCNN(backbone, proposals, heads, transform), heads.box_head


def retinanet_head() -> tuple[Any, nn.Module]:
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=ops.feature_pyramid_network.LastLevelP6P7(256, 256),
    )
    model: Any = RetinaNet(backbone, 91, min_size=64, max_size=96)
    head = RetinaNetClassificationHead(
        model.backbone.out_channels,
        model.head.classification_head.num_anchors,
        CLASSES,
        norm_layer=partial(nn.GroupNorm, 32),
    )
    model.head.classification_head = head
    return model, head


def fcos_head() -> tuple[Any, nn.Module]:
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=ops.feature_pyramid_network.LastLevelP6P7(256, 256),
    )
    model: Any = FCOS(backbone, 91, 64, 96)
    head = FCOSClassificationHead(256, model.anchor_generator.num_anchors_per_location()[0], CLASSES, num_convs=2)
    model.head.classification_head = head
    return model, head


def ssd_head() -> tuple[Any, nn.Module]:
    backbone = mobilenet_backbone(
        backbone_name="mobilenet_v3_small", weights=None, fpn=True, norm_layer=nn.BatchNorm2d, trainable_layers=4
    )
    anchors = detection.anchor_utils.DefaultBoxGenerator([[2], [2, 3], [2]])
    model: Any = ssd.SSD(backbone, anchors, (96, 96), 91)
    channels = det_utils.retrieve_out_channels(model.backbone, (96, 96))
    head = ssd.SSDClassificationHead(channels, model.anchor_generator.num_anchors_per_location(), CLASSES)
    model.head.classification_head = head
    return model, head


def ssdlite_head() -> tuple[Any, nn.Module]:
    model: Any = detection.ssdlite320_mobilenet_v3_large(**RANDOM)
    channels = det_utils.retrieve_out_channels(model.backbone, (320, 320))
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    anchors = model.anchor_generator.num_anchors_per_location()
    head = ssdlite.SSDLiteClassificationHead(channels, anchors, CLASSES, norm)
    model.head.classification_head = head
    return model, head


DETECTORS = [
    fast_rcnn_predictor,
    mask_rcnn_predictor,
    keypoint_rcnn_predictor,
    composed,
    generalized,
    retinanet_head,
    fcos_head,
    ssd_head,
    ssdlite_head,
]


@pytest.mark.parametrize("recipe", DETECTORS, ids=lambda recipe: recipe.__name__)
def test_detectors_of_replaced_parts_train_and_detect(recipe: Callable[[], tuple[nn.Module, nn.Module]]) -> None:
    torch.manual_seed(0)
    model, replaced = recipe()
    images, targets = scenes.images(), scenes.targets()
    losses: dict[str, Tensor] = model.train()(images, targets)
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in replaced.parameters())
    with torch.inference_mode():
        found = model.eval()(images)
    assert len(found) == 2
    for detections in found:
        assert {"boxes", "labels", "scores"} <= set(detections)
        assert (detections["labels"] < CLASSES).all()


def replace_last(model: nn.Module, layer: str) -> nn.Module:
    """Replace `model.fc`, or the last of `model.classifier`, by a linear layer for fewer classes."""
    part = getattr(model, layer)
    last: Any = part[-1] if isinstance(part, nn.Sequential) else part
    new = nn.Linear(last.in_features, CLASSES)
    if isinstance(part, nn.Sequential):
        part[-1] = new
    else:
        setattr(model, layer, new)
    return new


@pytest.mark.parametrize(
    ("builder", "layer"),
    [
        (models.resnet18, "fc"),
        (models.shufflenet_v2_x0_5, "fc"),
        (models.regnet_y_400mf, "fc"),
        (models.googlenet, "fc"),
        (models.densenet121, "classifier"),
        (models.alexnet, "classifier"),
        (models.mobilenet_v2, "classifier"),
        (models.mobilenet_v3_small, "classifier"),
        (models.efficientnet_b0, "classifier"),
        (models.convnext_tiny, "classifier"),
        (models.swin_t, "head"),
        (models.vit_b_32, "heads"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_classifiers_take_another_last_layer(builder: Callable[..., nn.Module], layer: str) -> None:
    with torch.device("meta"):
        model = builder(weights=None).eval()
        replace_last(model, layer)
        side = 224 if layer == "heads" else 64
        assert model(torch.zeros(2, 3, side, side)).shape == (2, CLASSES)


def test_the_auxiliary_heads_are_replaced_as_well() -> None:
    with torch.device("meta"):
        inception = models.inception_v3(weights=None, init_weights=False)
        inception.fc = nn.Linear(inception.fc.in_features, CLASSES)
        inception.AuxLogits = models.inception.InceptionAux(768, CLASSES)
        out = inception.train()(torch.zeros(2, 3, 299, 299))
        assert (out.logits.shape, out.aux_logits.shape) == ((2, CLASSES), (2, CLASSES))


def deeplab() -> Any:
    model: Any = segmentation.deeplabv3_resnet50(**RANDOM, aux_loss=True)
    model.classifier = DeepLabHead(2048, CLASSES)
    model.aux_classifier = FCNHead(1024, CLASSES)
    return model


def deeplab_last() -> Any:
    model: Any = segmentation.deeplabv3_mobilenet_v3_large(**RANDOM)
    model.classifier[4] = nn.Conv2d(256, CLASSES, 1)
    return model


def lraspp() -> nn.Module:
    body = IntermediateLayerGetter(models.mobilenet_v3_small(weights=None).features, {"3": "low", "12": "high"})
    return segmentation.LRASPP(body, 24, 576, CLASSES)


def fcn() -> nn.Module:
    body = IntermediateLayerGetter(models.resnet18(weights=None), return_layers={"layer4": "out"})
    return segmentation.FCN(body, FCNHead(512, CLASSES))


@pytest.mark.parametrize("recipe", [deeplab, deeplab_last, lraspp, fcn], ids=lambda recipe: recipe.__name__)
def test_segmenters_of_replaced_parts_train_and_segment(recipe: Callable[[], nn.Module]) -> None:
    model = recipe().train()
    x = torch.rand(2, 3, 64, 64)
    target = torch.randint(CLASSES, (2, 64, 64))
    results = model(x)
    losses = [nn.functional.cross_entropy(logits, target) for logits in results.values()]
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in model.parameters())
    with torch.inference_mode():
        assert model.eval()(x)["out"].shape == (2, CLASSES, 64, 64)


def test_settings_of_a_built_detector_can_be_changed() -> None:
    model: Any = detection.fasterrcnn_mobilenet_v3_large_fpn(**SMALL, box_score_thresh=0.0).eval()
    with torch.inference_mode():
        assert len(model(scenes.images())[0]["boxes"]) > 3
        model.roi_heads.detections_per_img = 3
        assert len(model(scenes.images())[0]["boxes"]) == 3
        model.roi_heads.score_thresh = 1.0
        assert len(model(scenes.images())[0]["boxes"]) == 0
    model.transform.min_size = (32,)
    batch, _ = model.transform(scenes.images())
    assert isinstance(batch, ImageList) and batch.image_sizes == [(32, 42), (35, 32)]


def test_wrong_compositions_are_refused() -> None:
    backbone: Any = models.mobilenet_v3_small(weights=None).features
    with pytest.raises(InvalidArgumentError, match="needs an attribute out_channels"):
        faster_rcnn.FasterRCNN(backbone, 2)
    backbone.out_channels = 576
    with pytest.raises(InvalidArgumentError, match="num_classes must be a positive integer, got None"):
        faster_rcnn.FasterRCNN(backbone)
    with pytest.raises(InvalidArgumentError, match="num_classes must be None where box_predictor is given, got 2"):
        faster_rcnn.FasterRCNN(backbone, 2, box_predictor=faster_rcnn.FastRCNNPredictor(1024, 2))
    with pytest.raises(InvalidArgumentError, match="must be that of a builder of ResNet, got 'alexnet'"):
        resnet_fpn_backbone(backbone_name="alexnet", weights=None)


def test_backbones_take_what_older_code_passes() -> None:
    with pytest.warns(UserWarning, match="positional arguments of resnet_fpn_backbone"):
        backbone = resnet_fpn_backbone("resnet18", None)
    assert backbone.out_channels == 256
    with pytest.warns(UserWarning, match="'pretrained' is deprecated"):
        resnet_fpn_backbone(backbone_name="resnet18", pretrained=False)


@torch.inference_mode()
def test_features_are_extracted_by_name() -> None:
    model = models.resnet18(weights=None).eval()
    train, evaluation = get_graph_node_names(model)
    assert train == evaluation
    assert evaluation[:5] == ["x", "conv1", "bn1", "relu", "maxpool"] and evaluation[-2:] == ["flatten", "fc"]
    nodes = {"layer1": "low", "layer4.1.relu_1": "high", "flatten": "mean"}
    extractor = create_feature_extractor(model, return_nodes=nodes)
    x = torch.rand(2, 3, 64, 64)
    found = extractor(x)
    assert {k: tuple(v.shape) for k, v in found.items()} == {
        "low": (2, 64, 16, 16),
        "high": (2, 512, 2, 2),
        "mean": (2, 512),
    }
    torch.testing.assert_close(model.fc(found["mean"]), model(x))
    assert set(model.state_dict()) - set(extractor.state_dict()) == {"fc.weight", "fc.bias"}
    with pytest.raises(InvalidArgumentError, match="no result 'layer5'"):
        create_feature_extractor(model, ["layer5"])


@torch.inference_mode()
def test_extractors_follow_the_mode() -> None:
    model = models.googlenet(weights=None, init_weights=False)
    with pytest.warns(UserWarning, match="other results in training"):
        train, evaluation = get_graph_node_names(model)
    assert "aux1.fc2" in train and "aux1.fc2" not in evaluation
    extractor = create_feature_extractor(model, train_return_nodes=["aux1"], eval_return_nodes=["inception5b", "fc"])
    x = torch.rand(2, 3, 64, 64)
    assert {k: v.shape[1] for k, v in extractor.train()(x).items()} == {"aux1": 1000}
    assert {k: v.shape[1] for k, v in extractor.eval()(x).items()} == {"inception5b": 1024, "fc": 1000}


@pytest.mark.parametrize("builder", [models.vit_b_32, models.swin_t, segmentation.fcn_resnet50, models.video.r3d_18])
def test_other_families_are_traced(builder: Callable[..., nn.Module]) -> None:
    with torch.device("meta"):
        model = builder(weights=None).eval() if builder is not segmentation.fcn_resnet50 else builder(**RANDOM).eval()
        assert len(get_graph_node_names(model, suppress_diff_warning=True)[1]) > 50
