"""Every detector learns two pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.models import parts, reference
from tests.models.detection import scenes
from torch import Tensor, nn

from zoofleet.models import get_model
from zoofleet.models.detection.keypoint_rcnn import KeypointRCNNHeads

STEPS = 20

SMALL_IMAGES: dict[str, Any] = {"min_size": 64}
FEW_REGIONS = SMALL_IMAGES | {"box_batch_size_per_image": 16, "rpn_post_nms_top_n_train": 100}


def _options(name: str) -> dict[str, Any]:
    """Options that make training quick."""
    if name.startswith("ssd"):
        return {}  # their images have one size
    if name.startswith("keypointrcnn"):
        return FEW_REGIONS | {"keypoint_head": KeypointRCNNHeads(256, (512,))}
    return FEW_REGIONS if "rcnn" in name else SMALL_IMAGES


def _freeze_large_backbone(model: nn.Module) -> None:
    """Leave a ResNet or VGG as it is: what it makes of the two pictures is then computed only once."""
    for name in ("body", "features"):
        part = getattr(model.backbone, name, None)
        if part is not None and sum(p.numel() for p in part.parameters()) > 5_000_000:
            setattr(model.backbone, name, scenes.Once(part.requires_grad_(False)))


@pytest.mark.parametrize("name", parts.marked(scenes.NAMES, reference.smallest_of_each_file()))
def test_twenty_steps_lower_the_loss(name: str) -> None:
    torch.manual_seed(0)
    classes = 2 if name.startswith("keypointrcnn") else 3
    model = get_model(name, weights=None, weights_backbone=None, num_classes=classes, **_options(name)).train()
    _freeze_large_backbone(model)
    images, targets = scenes.images(), scenes.targets()

    def loss() -> Tensor:
        torch.manual_seed(1)  # the same draws of regions, as far as proposals stay the same
        losses = model(images, targets)
        total = torch.stack(list(losses.values())).sum()
        assert total.isfinite()
        return total

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    first = loss().item()
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        # Random weights give features of any size, and the first gradients with them.
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    assert loss().item() < 0.95 * first
