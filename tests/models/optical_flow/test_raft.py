"""RAFT's options, errors and behaviour; equality with the reference is checked for all models in one place."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from zoofleet.errors import InvalidArgumentError, UnknownWeightsError
from zoofleet.models.optical_flow import RAFT, raft_large, raft_small
from zoofleet.models.optical_flow.raft import CorrBlock, _upsample_convex


def _images(n: int = 1, height: int = 128, width: int = 136, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    both = torch.rand(2, n, 3, height, width, generator=generator) * 2 - 1
    return both[0], both[1]


@pytest.fixture(scope="module")
def model() -> RAFT:
    torch.manual_seed(0)
    return raft_small().eval()


@torch.inference_mode()
def test_there_is_a_flow_for_each_update_and_later_ones_extend_earlier_ones(model: RAFT) -> None:
    images = _images(2)
    flows = model(*images, num_flow_updates=3)
    assert [tuple(flow.shape) for flow in flows] == [(2, 2, 128, 136)] * 3
    first = model(*images, num_flow_updates=1)
    torch.testing.assert_close(first[0], flows[0])
    assert not torch.equal(flows[1], flows[2])


@torch.inference_mode()
def test_images_of_a_batch_do_not_influence_each_other(model: RAFT) -> None:
    image1, image2 = _images(2)
    together = model(image1, image2, num_flow_updates=2)[-1]
    alone = model(image1[1:], image2[1:], num_flow_updates=2)[-1]
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(128, 130), (132, 128), (120, 128), (128, 64), (0, 128)])
def test_sizes_that_do_not_fit_are_refused(model: RAFT, size: tuple[int, int]) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{size[0]}x{size[1]}.*divisible by 8 and at least 128"):
        model(*_images(1, *size))


def test_wrong_shapes_and_update_counts_are_refused(model: RAFT) -> None:
    image1, image2 = _images()
    for other in (image2[0], image2[:, :2], image2[..., :128], torch.cat([image2, image2])):
        with pytest.raises(InvalidArgumentError, match="two of the same shape"):
            model(image1, other)
    with pytest.raises(InvalidArgumentError, match="num_flow_updates is 0"):
        model(image1, image2, num_flow_updates=0)


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(UnknownWeightsError, match="C_T_V2"):
        raft_small(weights="C_T_V9")


def test_parts_can_be_replaced() -> None:
    encoder = torch.nn.Conv2d(3, 8, kernel_size=8, stride=8)
    with torch.inference_mode():
        flows = raft_small(feature_encoder=encoder)(*_images(), num_flow_updates=1)
    assert flows[0].shape == (1, 2, 128, 136)
    with pytest.raises(TypeError, match="num_classes"):
        raft_small(num_classes=3)


@pytest.mark.parametrize("builder", [raft_small, raft_large])
def test_gradients_reach_every_parameter_in_training(builder: Callable[..., RAFT]) -> None:
    torch.manual_seed(0)
    model = builder().train()
    flows = model(*_images(), num_flow_updates=2)
    torch.autograd.backward([flow.abs().mean() for flow in flows])
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert dead == []
    for part in (model.feature_encoder.conv, model.context_encoder.conv, model.update_block.flow_head.conv2):
        assert isinstance(part, torch.nn.Conv2d)
        assert part.weight.grad is not None and part.weight.grad.abs().sum() > 0


@torch.inference_mode()
def test_large_gives_a_flow_for_each_update_unlike_with_bilinear_upsampling() -> None:
    torch.manual_seed(0)
    model = raft_large().eval()
    flows = model(*_images(2), num_flow_updates=2)
    assert [tuple(flow.shape) for flow in flows] == [(2, 2, 128, 136)] * 2
    torch.manual_seed(0)
    bilinear = raft_large(mask_predictor=None).eval()
    assert not torch.allclose(bilinear(*_images(2), num_flow_updates=2)[0], flows[0])


@torch.inference_mode()
def test_convex_upsampling_mixes_the_flows_around() -> None:
    generator = torch.Generator().manual_seed(0)
    flow = torch.randn(1, 2, 3, 4, generator=generator)
    mask = torch.randn(1, 9, 8, 8, 3, 4, generator=generator)
    fine = _upsample_convex(flow, mask.reshape(1, 576, 3, 4))
    assert fine.shape == (1, 2, 24, 32)
    padded = torch.nn.functional.pad(8 * flow, (1, 1, 1, 1))
    weights = mask.softmax(dim=1)
    for y, x in ((0, 0), (7, 9), (12, 17), (23, 31)):
        around = padded[0, :, y // 8 : y // 8 + 3, x // 8 : x // 8 + 3].flatten(1)  # (2, 9)
        expected = around @ weights[0, :, y % 8, x % 8, y // 8, x // 8]
        torch.testing.assert_close(fine[0, :, y, x], expected)


def test_concurrent_calls_equal_calls_one_by_one(model: RAFT) -> None:
    # Different sizes: state kept on a module by one call would break the other.
    inputs = [_images(1, 128, 128 + 8 * (i % 2), seed=i) for i in range(6)]

    def run(pair: tuple[Tensor, Tensor]) -> Tensor:
        with torch.inference_mode():
            flows: list[Tensor] = model(*pair, num_flow_updates=3)
            return flows[-1]

    expected = [run(pair) for pair in inputs]
    before = dict(vars(model))
    with ThreadPoolExecutor(2) as pool:
        actual = list(pool.map(run, inputs))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)
    assert vars(model) == before


@torch.inference_mode()
def test_lookup_reads_correlations_around_the_target() -> None:
    block = CorrBlock(num_levels=2, radius=1)
    assert (block.out_channels, block.min_feature_size) == (18, 4)
    torch.manual_seed(0)
    features1, features2 = torch.randn(1, 5, 6, 8), torch.randn(1, 5, 6, 8)
    pyramid = block.build_pyramid(features1, features2)
    assert [tuple(level.shape) for level in pyramid] == [(48, 1, 6, 8), (48, 1, 3, 4)]
    # The pixel at x=2, y=3 has moved to x=5, y=1; the window's x offset is the slower index.
    coords = torch.zeros(1, 2, 6, 8)
    coords[0, :, 3, 2] = torch.tensor([5.0, 1.0])
    looked_up = block.look_up(pyramid, coords)[0, :, 3, 2]
    expected = [
        features1[0, :, 3, 2] @ features2[0, :, 1 + dy, 5 + dx] / 5**0.5 for dx in (-1, 0, 1) for dy in (-1, 0, 1)
    ]
    torch.testing.assert_close(looked_up[:9], torch.stack(expected), rtol=1e-4, atol=1e-5)
    # Between pixels it is bilinear, outside it is zero.
    coords[0, :, 3, 2] = torch.tensor([4.5, 1.0])
    half = block.look_up(pyramid, coords)[0, :, 3, 2]
    torch.testing.assert_close(half[3:6], (looked_up[0:3] + looked_up[3:6]) / 2, rtol=1e-4, atol=1e-5)
    coords[0, :, 3, 2] = torch.tensor([100.0, 1.0])
    assert not block.look_up(pyramid, coords)[0, :, 3, 2].any()
