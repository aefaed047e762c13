"""Transformers over images and clips beyond what the reference's facts say: batches, sizes, training, options."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoofleet import models
from zoofleet.errors import InvalidArgumentError
from zoofleet.models import _hub
from zoofleet.models.maxvit import MaxVit
from zoofleet.models.swin_transformer import (
    PatchMergingV2,
    ShiftedWindowAttention,
    SwinTransformer,
    SwinTransformerBlockV2,
)
from zoofleet.models.video.mvit import MSBlockConfig, MViT
from zoofleet.models.video.swin_transformer import ShiftedWindowAttention3d, SwinTransformer3d
from zoofleet.models.vision_transformer import ConvStemConfig, VisionTransformer, interpolate_embeddings


def _vit(image_size: int = 48, **options: Any) -> VisionTransformer:
    model = VisionTransformer(image_size, 16, 2, 2, 32, 64, num_classes=5, **options)
    nn.init.normal_(model.heads.get_submodule("head").get_parameter("weight"))  # it starts as 0
    return model


def _swin(**options: Any) -> SwinTransformer:
    return SwinTransformer((4, 4), 16, (2, 2), (2, 4), (4, 4), num_classes=5, **options)


def _swin_v2(**options: Any) -> SwinTransformer:
    return _swin(block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2, **options)


def _maxvit(**options: Any) -> MaxVit:
    return MaxVit((64, 96), 8, 4, (8, 16), (1, 2), 4, num_classes=5, **{"stochastic_depth_prob": 0.0, **options})


def _swin3d(**options: Any) -> SwinTransformer3d:
    return SwinTransformer3d((2, 4, 4), 16, (2, 2), (2, 4), (2, 3, 3), num_classes=5, **options)


_MVIT_BLOCKS = (
    MSBlockConfig(1, 8, 16, (3, 3, 3), (3, 3, 3), (1, 1, 1), (1, 4, 4)),
    MSBlockConfig(2, 16, 16, (3, 3, 3), (3, 3, 3), (1, 2, 2), (1, 2, 2)),
)


def _mvit_v1(size: int = 32, **options: Any) -> MViT:
    return MViT(
        (size, size),
        4,
        _MVIT_BLOCKS,
        residual_pool=False,
        residual_with_cls_embed=True,
        rel_pos_embed=False,
        proj_after_attn=False,
        num_classes=5,
        **options,
    )


def _mvit_v2(size: int = 32, **options: Any) -> MViT:
    return MViT(
        (size, size),
        4,
        _MVIT_BLOCKS,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        num_classes=5,
        **options,
    )


Maker = Callable[..., nn.Module]

# Maps that windows do not divide, so that padding and masks take part.
FAMILIES: dict[str, tuple[Maker, tuple[int, ...]]] = {
    "vit": (_vit, (3, 48, 48)),
    "swin": (_swin, (3, 41, 56)),
    "swin_v2": (_swin_v2, (3, 41, 56)),
    "maxvit": (_maxvit, (3, 64, 96)),
    "swin3d": (_swin3d, (3, 7, 41, 56)),
    "mvit_v1": (_mvit_v1, (3, 4, 32, 32)),
    "mvit_v2": (_mvit_v2, (3, 4, 32, 32)),
}

each_family = pytest.mark.parametrize(("make", "shape"), FAMILIES.values(), ids=FAMILIES)


def _batch(n: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1))


@each_family
@torch.inference_mode()
def test_a_batch_gives_what_its_items_give(make: Maker, shape: tuple[int, ...]) -> None:
    model, x = make().eval(), _batch(3, shape)
    alone = torch.cat([model(item[None]) for item in x])
    torch.testing.assert_close(model(x), alone)
    assert not torch.allclose(alone[0], alone[1])


@each_family
def test_gradients_reach_every_parameter(make: Maker, shape: tuple[int, ...]) -> None:
    model = make(**{} if make is _vit else {"stochastic_depth_prob": 0.0}).train()
    model(_batch(2, shape)).square().sum().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Of what MViT's last block makes only the class token is read, which is not pooled and has no position.
    last = re.compile(r"blocks\.1\.attn\.(pool_q\.pool|rel_pos_)")
    unread = [name for name, _ in model.named_parameters() if isinstance(model, MViT) and last.match(name)]
    assert dead == unread


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "vit"])
def test_stochastic_depth_drops_the_last_block_and_keeps_the_first(family: str) -> None:
    make, shape = FAMILIES[family]
    model = make(stochastic_depth_prob=1.0).train()
    model(_batch(2, shape)).square().sum().backward()
    blocks = _residual_blocks(model)
    grads = [sum(float(p.grad.abs().sum()) for p in b.parameters() if p.grad is not None) for b in blocks]
    assert grads[0] > 0 and grads[-1] == 0


def _residual_blocks(model: nn.Module) -> list[nn.Module]:
    """The branches of the first and last residual connection."""
    last = {"MultiscaleBlock": "mlp", "PartitionAttentionLayer": "mlp_layer"}
    found = [m for m in model.modules() if type(m).__name__ in last or "TransformerBlock" in type(m).__name__]
    return [m.get_submodule(last.get(type(m).__name__, "mlp")) for m in found]


@each_family
@torch.inference_mode()
def test_bfloat16_stays_near_float32(make: Maker, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), _batch(2, shape)
    full = model(x)
    half = model.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, rtol=0.1, atol=0.1 * full.abs().max().item())


@each_family
@torch.inference_mode()
def test_a_copy_is_a_model_of_its_own(make: Maker, shape: tuple[int, ...]) -> None:
    model, x = make().eval(), _batch(1, shape)
    before, copied = model(x), copy.deepcopy(model)
    for p in model.parameters():
        p.zero_()
    torch.testing.assert_close(copied(x), before, rtol=0, atol=0)
    copied.load_state_dict(model.state_dict())
    assert not torch.allclose(copied(x), before)


@pytest.mark.parametrize(
    ("attention", "size", "window", "shift"),
    [
        (ShiftedWindowAttention, (8, 12), (4, 4), (2, 2)),
        (ShiftedWindowAttention, (7, 10), (4, 4), (2, 2)),
        (ShiftedWindowAttention, (3, 10), (4, 4), (2, 2)),
        (ShiftedWindowAttention, (9, 6), (3, 6), (1, 3)),
        (ShiftedWindowAttention3d, (4, 6, 6), (2, 3, 3), (1, 1, 1)),
        (ShiftedWindowAttention3d, (5, 7, 4), (2, 3, 3), (1, 1, 1)),
        (ShiftedWindowAttention3d, (1, 6, 7), (2, 3, 3), (1, 1, 1)),
    ],
)
@torch.inference_mode()
def test_shifted_windows_equal_attention_over_all_tokens_with_a_mask(
    attention: type[ShiftedWindowAttention], size: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    layer = attention(8, window, shift, 2).eval()
    x = torch.randn(2, *size, 8)

    sides = [min(s, w) if attention is ShiftedWindowAttention3d else w for s, w in zip(size, window, strict=True)]
    padded = [-(-s // w) * w for s, w in zip(size, sides, strict=True)]
    full = torch.zeros(2, *padded, 8)
    inside = (slice(None), *(slice(s) for s in size))
    full[inside] = x
    places = torch.cartesian_prod(*(torch.arange(p) for p in padded))  # (tokens, axes)
    moved = torch.tensor([by if s > w else 0 for s, w, by in zip(size, window, shift, strict=True)])
    # Without a roll, a window starts `shift` after the edge, and what lies before is a smaller window.
    windows = (places + torch.tensor(sides) - moved) // torch.tensor(sides)
    together = (windows[:, None] == windows).all(-1)
    offsets = places[:, None] - places + torch.tensor(window) - 1  # (tokens, tokens, axes)
    row = torch.zeros_like(offsets[..., 0])
    for axis, w in enumerate(window):
        row = row * (2 * w - 1) + offsets[..., axis].clamp(0, 2 * w - 2)
    bias = layer.relative_position_bias_table[row].permute(2, 0, 1).masked_fill(~together, -torch.inf)
    q, k, v = layer.qkv(full.flatten(1, -2)).reshape(2, len(places), 3, 2, 4).permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT / 2 + bias).softmax(-1)
    expected = layer.proj((weights @ v).transpose(1, 2).flatten(2)).reshape(full.shape)[inside]

    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("make", [_vit, _maxvit, _mvit_v1])
def test_inputs_of_another_size_are_refused_with_the_right_one(make: Maker) -> None:
    model = make().eval()
    shape = (1, 3, 4, 64, 64) if make is _mvit_v1 else (1, 3, 64, 64)
    right = {_vit: "48, 48", _maxvit: "64, 96", _mvit_v1: "4, 32, 32"}[make]
    with pytest.raises(InvalidArgumentError, match=right):
        model(torch.zeros(shape))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.vit_b_32(image_size=100), "multiple of patch_size"),
        (lambda: models.maxvit_t(input_size=(256, 224)), "64x56"),
        (lambda: SwinTransformer((4, 4), 16, (2, 2), (2,), (4, 4)), "depths"),
        (lambda: models.video.mvit_v2_s(spatial_size=(226, 224)), "226"),
        (lambda: models.vit_b_16(weights="IMAGENET1K_SWAG_E2E_V1", image_size=224), "384"),
        (lambda: models.maxvit_t(weights="DEFAULT", input_size=(448, 448)), "224"),
        (lambda: models.video.mvit_v1_b(weights="DEFAULT", temporal_size=8), "16"),
    ],
)
def test_sizes_that_cannot_be_are_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        build()


def test_weights_fix_the_image_size(monkeypatch: pytest.MonkeyPatch) -> None:
    published = models.vit_b_16(image_size=384).state_dict()
    monkeypatch.setattr(_hub, "load_state_dict", lambda url, **_: published)
    assert models.vit_b_16(weights="IMAGENET1K_SWAG_E2E_V1").image_size == 384


def test_embeddings_resampled_for_larger_images_load() -> None:
    small, large = _vit(48), _vit(96)
    state = interpolate_embeddings(96, 16, small.state_dict())
    large.load_state_dict(state)
    old, new = small.encoder.pos_embedding, state["encoder.pos_embedding"]
    assert new.shape == (1, 37, 32)
    torch.testing.assert_close(new[:, 0], old[:, 0])
    # With corners aligned they stay: the grids' first and last tokens.
    torch.testing.assert_close(new[:, [1, 6, 31, 36]], old[:, [1, 3, 7, 9]])


def test_embeddings_of_the_same_size_stay_and_heads_can_be_left_out() -> None:
    state = _vit().state_dict()
    kept = interpolate_embeddings(48, 16, state, reset_heads=True)
    assert set(state) - set(kept) == {"heads.head.weight", "heads.head.bias"}
    assert kept["encoder.pos_embedding"] is state["encoder.pos_embedding"]


@pytest.mark.parametrize("shape", [(1, 9, 32), (2, 10, 32), (10, 32), (1, 1, 32)])
def test_embeddings_that_are_no_square_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match="pos_embedding"):
        interpolate_embeddings(96, 16, {"encoder.pos_embedding": torch.zeros(shape)})


def test_checkpoints_with_old_names_load() -> None:
    model = _vit()
    expected = {k: v + 1 for k, v in model.state_dict().items()}
    old = {k.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): v for k, v in expected.items()}
    assert set(old) != set(expected)
    wrapped = nn.Sequential(model)
    wrapped.load_state_dict({f"0.{k}": v for k, v in old.items()})
    torch.testing.assert_close(dict(model.state_dict()), expected)


@torch.inference_mode()
def test_vit_takes_a_hidden_layer_and_a_convolutional_stem() -> None:
    stem = [ConvStemConfig(8, 3, 4), ConvStemConfig(16, 3, 4)]
    model = _vit(representation_size=24, conv_stem_configs=stem).eval()
    keys = set(model.state_dict())
    assert {"heads.pre_logits.weight", "conv_proj.conv_bn_relu_1.0.weight", "conv_proj.conv_last.bias"} <= keys
    assert model(torch.zeros(2, 3, 48, 48)).shape == (2, 5)


@pytest.mark.parametrize("size", [(2, 24, 24), (3, 45, 70), (1, 4, 4), (8, 64, 32)])
@torch.inference_mode()
def test_mvit_v2_takes_clips_of_other_sizes(size: tuple[int, int, int]) -> None:
    logits = _mvit_v2().eval()(torch.randn(1, 3, *size))
    assert logits.shape == (1, 5) and logits.isfinite().all()


@torch.inference_mode()
def test_relative_positions_are_resampled_for_larger_maps() -> None:
    small, large = _mvit_v2(32).eval(), _mvit_v2(64).eval()
    large.load_state_dict({k: v for k, v in small.state_dict().items() if "rel_pos" not in k}, strict=False)
    for model in (small, large):
        for name, p in model.named_parameters():
            if "rel_pos" in name:  # the same at every distance, so also between them
                p.copy_(torch.linspace(-1, 1, p.shape[1]))
    x = _batch(1, (3, 4, 64, 64))
    torch.testing.assert_close(small(x), large(x))


def test_mvit_v2_has_the_positions_of_its_size() -> None:
    model = models.video.mvit_v2_s(spatial_size=(64, 32), temporal_size=4)
    shapes = {k: tuple(v.shape) for k, v in model.named_parameters()}
    assert [shapes[f"blocks.0.attn.rel_pos_{axis}"] for axis in "hwt"] == [(31, 96), (15, 96), (3, 96)]
    assert [shapes[f"blocks.15.attn.rel_pos_{axis}"] for axis in "hwt"] == [(3, 96), (1, 96), (3, 96)]
