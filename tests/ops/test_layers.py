"""Box arithmetic, frozen batch norm, the feature pyramid and its pooler."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models import ops


def test_areas_and_iou() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 2], [2, 0, 6, 2], [8, 8, 9, 9], [1, 1, 1, 1]])
    assert ops.box_area(boxes).tolist() == [8, 8, 1, 0]
    iou = ops.box_iou(boxes, boxes)
    assert iou[0, :3].tolist() == [1, pytest.approx(4 / 12), 0]
    assert math.isnan(iou[3, 3])
    assert ops.box_iou(boxes[:0], boxes).shape == (0, 4)
    assert ops.box_iou(boxes.byte(), boxes.byte())[0, 1].item() == pytest.approx(4 / 12)
    assert ops.box_area(torch.tensor([[0, 0, 1000, 1000]], dtype=torch.float16)).item() == 1e6


def test_clip_and_small() -> None:
    boxes = torch.tensor([[-5.0, -5, 30, 30], [3, 3, 6, 4], [25, 25, 30, 30]])
    clipped = ops.clip_boxes_to_image(boxes, (10, 20))
    assert clipped.tolist() == [[0, 0, 20, 10], [3, 3, 6, 4], [20, 10, 20, 10]]
    assert ops.remove_small_boxes(clipped, 1).tolist() == [0, 1]
    assert ops.remove_small_boxes(clipped, 1.5).tolist() == [0]
    assert ops.clip_boxes_to_image(boxes[:0], (1, 1)).shape == (0, 4)


def test_frozen_batch_norm_equals_batch_norm_in_eval(generator: torch.Generator) -> None:
    live = nn.BatchNorm2d(5).eval()
    for tensor in live.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    frozen = ops.FrozenBatchNorm2d(5)
    frozen.load_state_dict(live.state_dict())
    assert list(frozen.state_dict()) == ["weight", "bias", "running_mean", "running_var"]
    assert not list(frozen.parameters())
    x = torch.randn(2, 5, 3, 4, generator=generator)
    torch.testing.assert_close(frozen.train()(x), live(x))


def pyramid() -> ops.FeaturePyramidNetwork:
    torch.manual_seed(0)
    return ops.FeaturePyramidNetwork([4, 8, 16], 6, ops.LastLevelMaxPool())


def test_pyramid_state_dict_and_initialisation() -> None:
    network = pyramid()
    keys = [f"{b}_blocks.{i}.0.{p}" for b in ("inner", "layer") for i in range(3) for p in ("weight", "bias")]
    assert list(network.state_dict()) == keys
    assert not any(network.state_dict()[key].any() for key in keys if key.endswith("bias"))
    torch.manual_seed(0)
    for channels in (4, 8, 16):  # what the layers draw when they are made
        nn.Conv2d(channels, 6, 1), nn.Conv2d(6, 6, 3)
    for key in keys[::2]:
        expected = nn.init.kaiming_uniform_(torch.empty_like(network.state_dict()[key]), a=1)
        assert torch.equal(network.state_dict()[key], expected)


def test_pyramid_merges_from_coarse_to_fine(generator: torch.Generator) -> None:
    network = pyramid()
    x = {n: torch.randn(1, c, s, s + 1, generator=generator) for n, c, s in (("a", 4, 13), ("b", 8, 7), ("c", 16, 4))}
    levels = network(x)
    assert {name: tuple(level.shape) for name, level in levels.items()} == {
        "a": (1, 6, 13, 14),
        "b": (1, 6, 7, 8),
        "c": (1, 6, 4, 5),
        "pool": (1, 6, 2, 3),
    }
    assert list(levels) == ["a", "b", "c", "pool"]
    assert torch.equal(levels["pool"], levels["c"][..., ::2, ::2])
    coarse = network.inner_blocks[2](x["c"])
    nearest = coarse[..., torch.arange(7) * 4 // 7, :][..., torch.arange(8) * 5 // 8]
    torch.testing.assert_close(levels["b"], network.layer_blocks[1](network.inner_blocks[1](x["b"]) + nearest))


@pytest.mark.parametrize(("in_channels", "source"), [(6, "levels"), (16, "inputs")])
def test_pyramid_grows_by_convolutions(generator: torch.Generator, in_channels: int, source: str) -> None:
    extra = ops.LastLevelP6P7(in_channels, 6)
    network = ops.FeaturePyramidNetwork([8, 16], 6, extra, norm_layer=nn.BatchNorm2d).eval()
    assert [key for key in network.state_dict() if key.startswith("inner_blocks.0")] == [
        f"inner_blocks.0.{key}"
        for key in ("0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked")
    ]
    x = {"a": torch.randn(1, 8, 13, 9, generator=generator), "b": torch.randn(1, 16, 7, 5, generator=generator)}
    levels = network(x)
    assert [(name, *level.shape[2:]) for name, level in levels.items()] == [
        ("a", 13, 9),
        ("b", 7, 5),
        ("p6", 4, 3),
        ("p7", 2, 2),
    ]
    p6 = extra.p6(levels["b"] if source == "levels" else x["b"])
    assert torch.equal(levels["p6"], p6) and torch.equal(levels["p7"], extra.p7(p6.relu()))
    assert not extra.p6.bias.any()  # type: ignore[union-attr]


def test_pooler_takes_each_box_from_its_level() -> None:
    strides = {"0": 4, "1": 8, "2": 16, "3": 32}
    x = {name: torch.full((2, 1, 800 // s, 1088 // s), float(s)) for name, s in strides.items()}
    x["pool"] = torch.zeros(2, 1, 13, 17)
    pooler = ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 2, 2)
    sides = [1, 111, 112, 223, 224, 447, 448, 700]
    boxes = torch.tensor([[0.0, 0, side, side] for side in sides])
    pooled = pooler(x, [boxes[:3], boxes[3:]], [(800, 1066), (750, 1088)])
    assert pooled.shape == (8, 1, 2, 2)
    assert pooled[:, 0, 0, 0].tolist() == [4, 4, 8, 8, 16, 16, 32, 32]
    hopeless = torch.tensor([[0.0, 0, math.nan, 1], [9, 9, 1, 20]])
    assert pooler(x, [hopeless, hopeless[:0]], [(800, 1066), (750, 1088)]).isfinite().all()
    assert pooler(x, [boxes[:0], boxes[:0]], [(800, 1066), (750, 1088)]).shape == (0, 1, 2, 2)
    with pytest.raises(InvalidArgumentError, match=r"none of \['9'\]"):
        ops.MultiScaleRoIAlign(["9"], 2, 2)(x, [boxes, boxes], [(800, 1066)] * 2)


def test_pooler_equals_roi_align_and_differentiates(generator: torch.Generator) -> None:
    fine = torch.randn(1, 3, 32, 32, generator=generator, requires_grad=True)
    coarse = torch.randn(1, 3, 16, 16, generator=generator, requires_grad=True)
    boxes = torch.tensor([[3.0, 4, 60, 50], [0, 0, 128, 127], [10, 20, 30, 22]])
    pooler = ops.MultiScaleRoIAlign(["0", "1"], (3, 2), 2, canonical_scale=100, canonical_level=3)
    pooled = pooler({"0": fine, "1": coarse}, [boxes], [(128, 128)])
    expected = [
        ops.roi_align(f, [b[None]], (3, 2), s, 2)
        for f, s, b in zip((fine, coarse, fine), (1 / 4, 1 / 8, 1 / 4), boxes, strict=True)
    ]
    assert torch.equal(pooled, torch.cat(expected))
    got = torch.autograd.grad(pooled.sum(), (fine, coarse))
    torch.testing.assert_close(got, torch.autograd.grad(torch.cat(expected).sum(), (fine, coarse)))
    alone = ops.MultiScaleRoIAlign(["1"], (3, 2), 2)({"1": coarse}, [boxes], [(128, 128)])
    assert torch.equal(alone, ops.roi_align(coarse, [boxes], (3, 2), 1 / 8, 2))


def test_exports() -> None:
    assert len(set(ops.__all__)) == len(ops.__all__)
    assert all(getattr(ops, name).__doc__ for name in ops.__all__)
