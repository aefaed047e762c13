"""S3D's limits and training; one test compares all models with the reference."""

from __future__ import annotations

import pytest
import torch

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.video import s3d


@torch.inference_mode()
def test_the_smallest_clip_gives_logits_and_smaller_ones_are_refused() -> None:
    model = s3d(num_classes=7).eval()
    assert model(torch.zeros(1, 3, 13, 209, 209)).shape == (1, 7)
    for shape in [(1, 3, 12, 209, 209), (1, 3, 13, 208, 209), (1, 3, 13, 209, 208), (3, 13, 209, 209)]:
        with pytest.raises(InvalidArgumentError, match="T >= 13"):
            model(torch.zeros(shape))


def test_gradients_reach_every_parameter_in_training() -> None:
    model = s3d(num_classes=3, dropout=0.0).train()
    model(torch.randn(1, 3, 13, 209, 209)).square().sum().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []
