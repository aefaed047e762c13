"""Losses of one-stage detectors against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from zoofleet.errors import InvalidArgumentError
from zoofleet.models import ops


def test_focal_loss_is_weighted_cross_entropy(generator: torch.Generator) -> None:
    logits = 3 * torch.randn(5, 7, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 2, (5, 7), generator=generator).double()
    plain = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    torch.testing.assert_close(ops.sigmoid_focal_loss(logits, targets, alpha=-1, gamma=0), plain)
    for x, t, found in zip(
        logits.flatten().tolist(),
        targets.flatten().tolist(),
        ops.sigmoid_focal_loss(logits, targets, alpha=0.3, gamma=1.5).flatten().tolist(),
        strict=True,
    ):
        p = 1 / (1 + math.exp(-x))
        right, weight = (p, 0.3) if t else (1 - p, 0.7)
        assert found == pytest.approx(-weight * (1 - right) ** 1.5 * math.log(right))
    each = ops.sigmoid_focal_loss(logits, targets)
    torch.testing.assert_close(ops.sigmoid_focal_loss(logits, targets, reduction="sum"), each.sum())
    torch.testing.assert_close(ops.sigmoid_focal_loss(logits, targets, reduction="mean"), each.mean())
    assert torch.autograd.gradcheck(lambda x: ops.sigmoid_focal_loss(x, targets), logits.requires_grad_())


def test_focal_loss_of_extreme_logits_is_finite() -> None:
    logits = torch.tensor([-1e4, 1e4, 0.0], requires_grad=True)
    for targets in (torch.zeros(3), torch.ones(3)):
        loss = ops.sigmoid_focal_loss(logits, targets, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite() and gradient.isfinite().all()


def test_generalised_iou_loss() -> None:
    box = [0.0, 0, 4, 4]
    others = [box, [0, 0, 2, 4], [2, 0, 6, 4], [6, 0, 10, 4], [1, 1, 1, 1]]
    # The same, half of it, half beside it, apart by half a width, and a point within.
    expected = [0, 1 - 1 / 2, 1 - 1 / 3, 1 + 8 / 40, 1]
    first, second = torch.tensor([box] * 5, dtype=torch.float64), torch.tensor(others, dtype=torch.float64)
    found = ops.generalized_box_iou_loss(first, second)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(ops.generalized_box_iou_loss(second, first), found)
    assert ops.generalized_box_iou_loss(first, second, reduction="sum").item() == pytest.approx(sum(expected), abs=1e-6)
    assert ops.generalized_box_iou_loss(first, second, reduction="mean").item() == pytest.approx(
        sum(expected) / 5, abs=1e-6
    )


def test_generalised_iou_loss_differentiates(generator: torch.Generator) -> None:
    start = torch.rand(2, 6, 2, generator=generator, dtype=torch.float64)
    boxes = torch.cat((start, start + 0.1 + torch.rand(2, 6, 2, generator=generator, dtype=torch.float64)), dim=-1)
    assert torch.autograd.gradcheck(ops.generalized_box_iou_loss, (boxes[0].requires_grad_(), boxes[1]))
    nothing = torch.zeros(0, 4, requires_grad=True)
    for reduction in ("sum", "mean"):
        loss = ops.generalized_box_iou_loss(nothing, nothing, reduction=reduction)
        assert loss == 0 and torch.autograd.grad(loss, nothing)[0].shape == (0, 4)


def test_unknown_reductions_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="'none', 'mean' or 'sum', got 'total'"):
        ops.sigmoid_focal_loss(torch.zeros(1), torch.zeros(1), reduction="total")
