"""The presets against Pillow's own arithmetic and plain loops, for each distinct row in the catalog."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.models import seeded
from torch import Tensor

from zoofleet import _catalog
from zoofleet.errors import InvalidArgumentError
from zoofleet.models.transforms import (
    ImageClassification,
    ObjectDetection,
    OpticalFlow,
    SemanticSegmentation,
    VideoClassification,
    preset,
)

Floats = NDArray[np.float64]

SIZES = [(300, 451), (451, 300), (97, 64), (333, 333)]
"""Heights and widths: odd, larger and smaller than the crops."""

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
KINETICS = {"mean": (0.43216, 0.394666, 0.37645), "std": (0.22803, 0.22145, 0.216989)}


def rows(*presets: str) -> list[Any]:
    """The distinct parameters of these presets in the catalog."""
    found = {json.dumps(dict(row.transforms), sort_keys=True) for row in _catalog.all_weights()}
    return [pytest.param(row, id=text) for text in sorted(found) if (row := json.loads(text))["preset"] in presets]


def picture(size: tuple[int, int], seed: int = 1) -> Image.Image:
    return Image.fromarray(seeded.image(*size, seed))


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def resized(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Height and width once the shorter side has that length; the longer one is cut to whole pixels."""
    h, w = size
    return (shorter, int(shorter * w / h)) if h <= w else (int(shorter * h / w), shorter)


def cropped(image: Floats, size: tuple[int, int]) -> Floats:
    """The middle of (H, W, 3), pixel by pixel from its definition."""
    h, w = image.shape[:2]
    ch, cw = size
    image = np.pad(
        image,
        (
            (max((ch - h) // 2, 0), max((ch - h + 1) // 2, 0)),
            (max((cw - w) // 2, 0), max((cw - w + 1) // 2, 0)),
            (0, 0),
        ),
    )
    top, left = round((image.shape[0] - ch) / 2), round((image.shape[1] - cw) / 2)
    return image[top : top + ch, left : left + cw]


def normalized(image: Floats, row: Mapping[str, Any], default: Mapping[str, Any]) -> Tensor:
    """(..., H, W, 3) in 0..255 to (..., 3, H, W)."""
    scaled = (image / 255 - np.array(row.get("mean", default["mean"]))) / np.array(row.get("std", default["std"]))
    return torch.from_numpy(np.moveaxis(scaled, -1, -3)).float()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("row", rows("ImageClassification", "SemanticSegmentation"))
def test_images_equal_pillow(row: Mapping[str, Any], size: tuple[int, int]) -> None:
    # Half the contrast: bicubic then overshoots nothing that Pillow would cut off between its two passes.
    image = Image.fromarray(seeded.image(*size, 1) // 2 + 64)
    bicubic = row.get("interpolation") == "bicubic"
    h, w = resized(size, row.get("resize_size", 256))
    filtered = image.resize((w, h), Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR)
    pixels = np.array(filtered).astype(np.float64)
    expected = normalized(cropped(pixels, (row["crop_size"],) * 2) if "crop_size" in row else pixels, row, IMAGENET)

    made = preset(row)()
    torch.testing.assert_close(made(image), expected, rtol=0, atol=1e-5 / min(row.get("std", IMAGENET["std"])))
    grey_level = 1.01 / 255 / min(row.get("std", IMAGENET["std"]))
    as_tensor = made(tensor(image))
    assert (as_tensor - expected).abs().max() <= grey_level
    batch = torch.stack([tensor(image), tensor(image).flip(0)])
    torch.testing.assert_close(made(batch)[0], as_tensor)
    # Floats are never rounded to whole grey levels, as Pillow's are after each axis.
    assert (made(tensor(image).float() / 255) - expected).abs().max() <= 1.2 * grey_level


def bilinear(frame: Floats, size: tuple[int, int]) -> Floats:
    """(H, W, 3) sampled at the pixel centres of the new size, with nothing filtered before."""

    def along(old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(at).astype(np.int64)
        return low, np.minimum(low + 1, old - 1), at - low

    y0, y1, fy = along(frame.shape[0], size[0])
    x0, x1, fx = along(frame.shape[1], size[1])
    fx, fy = fx[None, :, None], fy[:, None, None]
    top = frame[y0][:, x0] * (1 - fx) + frame[y0][:, x1] * fx
    bottom = frame[y1][:, x0] * (1 - fx) + frame[y1][:, x1] * fx
    mixed: Floats = top * (1 - fy) + bottom * fy
    return mixed


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("row", rows("VideoClassification"))
def test_clips_equal_plain_sampling(row: Mapping[str, Any], size: tuple[int, int]) -> None:
    frames = seeded.clip(3, *size, 2)
    new = row["resize_size"]
    out = resized(size, new[0]) if len(new) == 1 else (new[0], new[1])
    pixels = np.stack([cropped(bilinear(f.astype(np.float64), out), tuple(row["crop_size"])) for f in frames])
    expected = normalized(pixels, row, KINETICS).transpose(0, 1)  # (T, 3, h, w) -> (3, T, h, w)

    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
    found = preset(row)()(clip)
    # Frames are rounded to whole grey levels after the resize.
    assert (found - expected).abs().max() <= 0.51 / 255 / min(row.get("std", KINETICS["std"]))
    both = preset(row)()(torch.stack([clip, clip.flip(0)]))
    torch.testing.assert_close(both, torch.stack([found, found.flip(1)]))


def test_detectors_get_the_image_in_0_to_1() -> None:
    image = picture((13, 17))
    expected = tensor(image).float() / 255
    for form in (image, tensor(image), expected):
        torch.testing.assert_close(ObjectDetection()(form), expected)


def test_flow_gets_both_images_in_minus_1_to_1() -> None:
    first, second = picture((16, 24), 1), picture((16, 24), 2)
    one, two = OpticalFlow()(first, tensor(second))
    torch.testing.assert_close(one, tensor(first).float() / 127.5 - 1)
    torch.testing.assert_close(two, tensor(second).float() / 127.5 - 1)
    assert one.is_contiguous() and two.is_contiguous()


def test_segmentation_keeps_the_size_if_asked_to() -> None:
    assert SemanticSegmentation(resize_size=None)(picture((31, 45))).shape == (3, 31, 45)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_pictures_of_any_mode_become_rgb(mode: str) -> None:
    image = Image.new(mode, (40, 30))
    assert ImageClassification(crop_size=16, resize_size=20)(image).shape == (3, 16, 16)


def test_the_caller_keeps_its_tensor() -> None:
    image = torch.rand(3, 16, 16)
    before = image.clone()
    ImageClassification(crop_size=16, resize_size=16)(image)
    torch.testing.assert_close(image, before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((8, 8, 3), np.uint8), "got ndarray"),
        (torch.zeros(8, 8), r"\(\.\.\., 3, H, W\), got \(8, 8\)"),
        (torch.zeros(8, 8, 3), r"got \(8, 8, 3\)"),
        (torch.zeros(3, 0, 8), r"got \(3, 0, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "int64"),
    ],
)
def test_other_things_are_refused(value: Any, message: str) -> None:
    for made in (ObjectDetection(), ImageClassification(crop_size=8), SemanticSegmentation()):
        with pytest.raises(InvalidArgumentError, match=message):
            made(value)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 2, 3, 8, 8)])
def test_a_clip_has_time(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"\(T, 3, H, W\)"):
        VideoClassification(crop_size=(8, 8), resize_size=(8,))(torch.zeros(shape))


def test_a_preset_tells_its_parameters() -> None:
    shown = repr(VideoClassification(crop_size=(112, 112), resize_size=(128, 171)))
    assert "crop_size=(112, 112), resize_size=(128, 171), mean=(0.43216, 0.394666, 0.37645)" in shown
