"""How each network is trained on the world: what it sees, what it loses, and for how long."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.world import CATEGORIES, Frame, portrait, scene
from zoofleet.models import get_model, mobilenet_v3_small
from zoofleet.models._utils import IntermediateLayerGetter
from zoofleet.models.segmentation.lraspp import LRASPP

TRAINING: Final = 0
"""First number of every seed that training scenes are made from; `HELD_OUT` scenes share none of them."""
HELD_OUT: Final = 1

Batch = tuple[Any, Any]

SIZES: Final = ((320, 240), (240, 320), (288, 288))
"""Widths and heights of scenes."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train one network.

    Attributes:
        name: registered name of the network, or of one that only serves as a start.
        build: makes it with random weights.
        batch: from a seed and a step's number to inputs and targets, on the CPU.
        loss: from a network in training mode, inputs and targets to a scalar.
        batch_size: scenes of a step; part of the recipe's description.
        steps: optimiser steps.
        lr: highest learning rate of the one-cycle schedule.
        clip_norm: greatest norm of all gradients together.
        preset: row of the weights table that makes images into the network's input; None for a mere start.
        categories: name of the category list of its labels; None for optical flow.
        start: the recipe whose trained backbone this one begins with, layer by layer up to the first that differs;
            None for random weights throughout.
    """

    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[int, int], Batch]
    loss: Callable[[nn.Module, Any, Any], Tensor]
    batch_size: int
    steps: int
    lr: float
    clip_norm: float = 10.0
    preset: Mapping[str, Any] | None = None
    categories: str | None = None
    start: str | None = None


def _normalised(images: list[Any]) -> Tensor:
    """float32 (N, 3, H, W) of uint8 (H, W, 3) images, as the presets normalise them."""
    batch = torch.stack([torch.from_numpy(image) for image in images]).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (batch - mean[:, None, None]) / std[:, None, None]


_PORTRAITS: Final = 32
_SIDE: Final = 128


def _portraits(seed: int, step: int) -> Batch:
    labels = [i % len(CATEGORIES) for i in range(_PORTRAITS)]
    frames = [portrait(TRAINING, seed, step, i, category=label, side=_SIDE).frame() for i, label in enumerate(labels)]
    return _normalised([frame.image for frame in frames]), torch.tensor(labels)


def _portrait_label_maps(seed: int, step: int) -> Batch:
    return _label_maps(
        [portrait(TRAINING, seed, step, i, category=i % len(CATEGORIES), side=_SIDE).frame() for i in range(_PORTRAITS)]
    )


def _small_segmenter() -> nn.Module:
    """LR-ASPP on MobileNetV3-Small: from label maps its backbone learns shapes far sooner than from classes alone."""
    features = mobilenet_v3_small(weights=None, dilated=True).features
    backbone = IntermediateLayerGetter(features, {"3": "low", "12": "high"})
    return LRASPP(backbone, low_channels=24, high_channels=576, num_classes=len(CATEGORIES) + 1)


def _classification_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(images).float(), labels, label_smoothing=0.05)


_SCENES: Final = 8
_SMALL: Final = (0.1, 0.25)
"""Radii of shapes down to the smallest whose category these networks can make out."""


def _frames(seed: int, step: int, radius: tuple[float, float]) -> list[Frame]:
    # One size a step, so that they stack.
    width, height = SIZES[step % len(SIZES)]
    return [scene(TRAINING, seed, step, i, width=width, height=height, radius=radius).frame() for i in range(_SCENES)]


def _boxes(seed: int, step: int) -> Batch:
    frames = _frames(seed, step, _SMALL)
    images = [torch.from_numpy(frame.image).permute(2, 0, 1) / 255 for frame in frames]
    targets = [
        {
            "boxes": torch.tensor([i.box for i in frame.instances], dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor([i.category + 1 for i in frame.instances], dtype=torch.int64),
        }
        for frame in frames
    ]
    return images, targets


def _detection_loss(model: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Tensor:
    losses: dict[str, Tensor] = model(images, targets)
    return torch.stack([loss.float() for loss in losses.values()]).sum()


def _small_label_maps(seed: int, step: int) -> Batch:
    return _label_maps(_frames(seed, step, _SMALL))


def _large_label_maps(seed: int, step: int, *, after: int) -> Batch:
    return _label_maps(_frames(seed, after + step, (0.14, 0.3)))


def _label_maps(frames: list[Frame]) -> Batch:
    labels = torch.stack([torch.from_numpy(frame.label_map) for frame in frames])  # (N, H, W)
    return _normalised([frame.image for frame in frames]), labels.long()


def _segmentation_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(images)["out"].float(), labels)


_PAIRS: Final = 4
MOTION: Final = 12.0
"""Most pixels that anything moves by between the images of a pair."""


def _pairs(seed: int, step: int) -> Batch:
    scenes = [
        scene(TRAINING, seed, step, i, width=160, height=128, count=(1, 5), radius=(0.12, 0.35), speed=MOTION, frames=2)
        for i in range(_PAIRS)
    ]
    frames = [torch.stack([torch.from_numpy(s.frame(time).image) for s in scenes]) for time in (0, 1)]
    first, second = (images.permute(0, 3, 1, 2) / 127.5 - 1 for images in frames)  # (N, 3, H, W) each
    return (first, second), torch.stack([torch.from_numpy(s.flow()) for s in scenes])


_GAMMA: Final = 0.8
_UPDATES: Final = 7


def _sequence_loss(model: nn.Module, images: tuple[Tensor, Tensor], flow: Tensor) -> Tensor:
    """RAFT's: the mean absolute error of each update's flow, later ones counting more (arXiv:2003.12039, eq. 7)."""
    flows = model(*images, num_flow_updates=_UPDATES)
    weights = [_GAMMA ** (len(flows) - 1 - i) for i in range(len(flows))]
    return torch.stack([w * (f.float() - flow).abs().mean() for w, f in zip(weights, flows, strict=True)]).sum()


_segmentation = partial(
    Recipe,
    build=partial(get_model, "lraspp_mobilenet_v3_large", num_classes=len(CATEGORIES) + 1, weights_backbone=None),
    loss=_segmentation_loss,
    batch_size=_SCENES,
)
"""A recipe for label maps of scenes: one round of several."""


RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            Recipe(
                name="backbone_mobilenet_v3_small",
                build=_small_segmenter,
                batch=_portrait_label_maps,
                loss=_segmentation_loss,
                batch_size=_PORTRAITS,
                steps=400,
                lr=2e-3,
            ),
            Recipe(
                name="mobilenet_v3_small",
                build=partial(get_model, "mobilenet_v3_small", num_classes=len(CATEGORIES)),
                batch=_portraits,
                loss=_classification_loss,
                batch_size=_PORTRAITS,
                steps=500,
                lr=1e-3,
                preset={"preset": "ImageClassification", "crop_size": _SIDE, "resize_size": _SIDE},
                categories="shapes",
                start="backbone_mobilenet_v3_small",
            ),
            _segmentation(
                name="backbone_mobilenet_v3_large",
                batch=_small_label_maps,
                steps=1200,
                lr=2e-3,
            ),
            Recipe(
                name="ssdlite320_mobilenet_v3_large",
                build=partial(
                    get_model, "ssdlite320_mobilenet_v3_large", num_classes=len(CATEGORIES) + 1, weights_backbone=None
                ),
                batch=_boxes,
                loss=_detection_loss,
                batch_size=_SCENES,
                steps=2400,
                lr=1e-3,
                preset={"preset": "ObjectDetection"},
                categories="shapes_background",
                start="backbone_mobilenet_v3_large",
            ),
            # Three more rounds, each on scenes of its own.
            _segmentation(
                name="backbone_mobilenet_v3_large_2",
                batch=partial(_large_label_maps, after=1200),
                steps=1300,
                lr=2e-3,
                start="backbone_mobilenet_v3_large",
            ),
            _segmentation(
                name="backbone_mobilenet_v3_large_3",
                batch=partial(_large_label_maps, after=2500),
                steps=900,
                lr=1e-3,
                start="backbone_mobilenet_v3_large_2",
            ),
            _segmentation(
                name="lraspp_mobilenet_v3_large",
                batch=partial(_large_label_maps, after=3400),
                steps=900,
                lr=1e-3,
                preset={"preset": "SemanticSegmentation", "resize_size": 240},
                categories="shapes_background",
                start="backbone_mobilenet_v3_large_3",
            ),
            Recipe(
                name="raft_small",
                build=partial(get_model, "raft_small"),
                batch=_pairs,
                loss=_sequence_loss,
                batch_size=_PAIRS,
                steps=5500,
                lr=6e-4,
                clip_norm=1.0,
                preset={"preset": "OpticalFlow"},
            ),
        )
    }
)
