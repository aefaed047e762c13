"""Gradients reach the images that a model is given, in single and in double precision, and are right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tests.models import seeded
from tests.models.detection import scenes
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from zoofleet.models import get_model
from zoofleet.models.detection import FCOS, Detector

DETECTORS = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "maskrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "fcos_resnet50_fpn",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)
"""One of each family and backbone."""

OTHERS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "fcn_resnet50": ((1, 3, 64, 72), {"aux_loss": True}),
    "deeplabv3_mobilenet_v3_large": ((1, 3, 64, 72), {"aux_loss": True}),
    "lraspp_mobilenet_v3_large": ((1, 3, 64, 72), {}),
    "raft_small": ((1, 3, 128, 136), {}),
    "raft_large": ((1, 3, 128, 136), {}),
    "r2plus1d_18": ((1, 3, 4, 32, 32), {}),
    "mvit_v2_s": ((1, 3, 16, 64, 64), {"spatial_size": (64, 64)}),
    "swin3d_t": ((1, 3, 4, 32, 32), {}),
}
"""Models of the other tasks that take more than one plain image: the shape of a small input, and options."""

STEP = 1e-9
"""Small enough that hardly a ReLU changes sides, and the differences still have seven digits."""


def _detector(name: str, dtype: torch.dtype) -> Detector:
    """A quick one whose own weights need no gradient: what needs one then comes from the images."""
    options: dict[str, Any] = {} if name.startswith("ssd") else {"min_size": 64}
    prefix = "box_" if "rcnn" in name else ""
    options |= {f"{prefix}score_thresh": 0.0, f"{prefix}detections_per_img": 5}
    model = scenes.small(name, **options)
    if isinstance(model, FCOS):  # whose boxes would all be empty
        nn.init.ones_(model.state_dict()["head.regression_head.bbox_reg.bias"])
    return model.to(dtype).requires_grad_(False)


def _losses(model: Detector, images: Sequence[Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(0)  # the regions that are drawn
    targets = [
        {key: value.to(images[0].dtype) if value.is_floating_point() else value for key, value in target.items()}
        for target in scenes.targets()[: len(images)]
    ]
    return model.losses(images, targets)


def _assert_reach(results: Sequence[Tensor], images: Sequence[Tensor]) -> None:
    """Demand that each result depends on the images, and a gradient of each image in its own precision."""
    dtype = images[0].dtype
    assert all(result.requires_grad and result.dtype == dtype for result in results)
    total = torch.stack([result.square().sum() for result in results]).sum()
    for gradient in torch.autograd.grad(total, images):
        assert gradient.dtype == dtype
        assert gradient.isfinite().all() and gradient.any()


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(torch.float32, id="float32"),
        # The gradients of losses are compared with differences in float64 anyway.
        pytest.param(torch.float64, id="float64", marks=pytest.mark.rest),
    ],
)
@pytest.mark.parametrize("name", DETECTORS)
def test_losses_and_detections_reach_the_images(name: str, dtype: torch.dtype) -> None:
    model = _detector(name, dtype)
    several = 1 if name.startswith("ssd") else 2  # an SSD brings all images to one size
    originals = [image.to(dtype) for image in scenes.images()[:several]]
    images = [image.clone().requires_grad_() for image in originals]

    losses = _losses(model, images)
    _assert_reach(list(losses.values()), images)
    assert all(torch.equal(losses[key], loss) for key, loss in _losses(model, originals).items())

    found = model.predict(images)
    assert all(len(detections.pop("labels")) for detections in found)
    _assert_reach([result for detections in found for result in detections.values()], images)

    assert all(torch.equal(image, original) for image, original in zip(images, originals, strict=True))


@torch.no_grad()
def _difference(function: Callable[[list[Tensor]], Tensor], inputs: list[Tensor], along: list[Tensor]) -> float:
    """The central difference of a function along a direction."""
    above, below = (
        function([x + sign * STEP * d for x, d in zip(inputs, along, strict=True)]).item() for sign in (1, -1)
    )
    return (above - below) / (2 * STEP)


def _assert_gradient_is_right(function: Callable[[list[Tensor]], Tensor], inputs: list[Tensor]) -> None:
    """Compare a scalar function's gradient with its difference where all inputs go up or down as the gradient says.

    It rises the most there, so that rounding matters least; and inputs without a gradient are moved too.
    """
    gradients = torch.autograd.grad(function(inputs), inputs)
    along = [torch.where(gradient < 0, -1.0, 1.0).to(gradient) for gradient in gradients]
    slope = sum(gradient.abs().sum().item() for gradient in gradients)
    assert slope == pytest.approx(_difference(function, inputs, along), rel=1e-3)


@pytest.mark.parametrize("name", ["fasterrcnn_mobilenet_v3_large_320_fpn", *DETECTORS[4:6], DETECTORS[-1]])
def test_the_gradients_of_losses_equal_differences(name: str) -> None:
    model = _detector(name, torch.float64)
    # Noise, since in plain areas max pooling has equal values to choose from, and no one slope.
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(i.shape, generator=generator, dtype=torch.double).requires_grad_() for i in scenes.images()]

    def total(given: list[Tensor]) -> Tensor:
        losses = _losses(model, given)
        # Proposals are constants to the heads that refine them, whose losses thus have another slope than gradient.
        return torch.stack(
            [loss for key, loss in losses.items() if key not in ("loss_classifier", "loss_box_reg")]
        ).sum()

    _assert_gradient_is_right(total, images)


@pytest.mark.parametrize("name", OTHERS)
def test_gradients_equal_differences(name: str) -> None:
    shape, options = OTHERS[name]
    backbone = {"weights_backbone": None} if len(shape) == 4 and "raft" not in name else {}
    model = get_model(name, weights=None, **backbone, **options)
    seeded.fill(model.state_dict())
    model = model.double().eval()
    # More updates of RAFT's flow have another slope than gradient: each takes the flow before it as a constant.
    updates = {"num_flow_updates": 1} if "raft" in name else {}
    generator = torch.Generator().manual_seed(1)
    inputs = [
        torch.rand(shape, generator=generator, dtype=torch.double).requires_grad_()
        for _ in range(2 if "raft" in name else 1)
    ]
    before = [x.detach().clone() for x in inputs]

    def total(given: list[Tensor]) -> Tensor:
        outputs = pytree.tree_leaves(model(*given, **updates))
        assert {output.dtype for output in outputs} == {torch.float64}
        ramps = [torch.linspace(-1, 1, output.numel(), dtype=torch.double).view_as(output) for output in outputs]
        return torch.stack([(output * ramp).sum() for output, ramp in zip(outputs, ramps, strict=True)]).sum()

    _assert_gradient_is_right(total, inputs)
    assert all(torch.equal(x, original) for x, original in zip(inputs, before, strict=True))
