"""A few steps on two fixed inputs lower the loss of a segmentation, a video and a flow model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tests.models import seeded
from torch import Tensor, nn

from zoofleet.models.optical_flow import raft_small
from zoofleet.models.segmentation import deeplabv3_mobilenet_v3_large
from zoofleet.models.video import r3d_18

STEPS = 20


def _assert_learns(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> None:
    model.train()
    losses = []
    for _ in range(STEPS):
        value = loss()
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.5 * losses[0], losses


def _images(seeds: tuple[int, int], height: int, width: int) -> Tensor:
    pictures = [torch.from_numpy(seeded.image(height, width, seed)) for seed in seeds]
    return torch.stack(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1  # (2, 3, H, W)


def test_segmentation_learns_two_images_with_both_heads() -> None:
    torch.manual_seed(0)
    model = deeplabv3_mobilenet_v3_large(weights_backbone=None, num_classes=3, aux_loss=True)
    images = _images((1, 2), 32, 32)
    target = torch.tensor([[0, 1], [1, 2]]).repeat_interleave(16, dim=1)  # one class on each side
    target = target[:, None].expand(-1, 32, -1)  # (2, 32, 32)

    def loss() -> Tensor:
        results = model(images)
        return nn.functional.cross_entropy(results["out"], target) + 0.5 * nn.functional.cross_entropy(
            results["aux"], target
        )

    _assert_learns(model, torch.optim.Adam(model.parameters(), lr=5e-4), loss)


def test_video_learns_two_clips() -> None:
    torch.manual_seed(0)
    model = r3d_18(num_classes=2)
    clip = torch.from_numpy(seeded.clip(4, 16, 16, 3)).permute(3, 0, 1, 2).float() / 127.5 - 1  # (3, 4, 16, 16)
    clips = torch.stack([clip, clip.flip(1)])  # forwards and backwards
    _assert_learns(
        model,
        torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9),
        lambda: nn.functional.cross_entropy(model(clips), torch.tensor([0, 1])),
    )


def test_flow_learns_two_pairs() -> None:
    torch.manual_seed(0)
    model = raft_small()
    first = _images((4, 5), 128, 128)
    shifts = ((3, -2), (-4, 5))
    second = torch.stack([image.roll((y, x), dims=(1, 2)) for image, (x, y) in zip(first, shifts, strict=True)])
    target = torch.tensor(shifts, dtype=torch.float)[:, :, None, None]  # (2, 2, 1, 1)

    def loss() -> Tensor:
        # The paper's equation 7: later predictions weigh more.
        flows: list[Tensor] = model(first, second, num_flow_updates=3)
        errors = [(flow - target).abs().mean() for flow in flows]
        return torch.stack([0.8 ** (len(errors) - 1 - i) * error for i, error in enumerate(errors)]).sum()

    _assert_learns(model, torch.optim.Adam(model.parameters(), lr=5e-4), loss)
