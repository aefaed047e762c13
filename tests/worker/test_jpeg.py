"""JPEGs, which have a decoder of their own, against what Pillow makes of them."""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from zoofleet._media import images
from zoofleet._media.images import decode_image
from zoofleet.errors import InvalidMediaError, ItemTooLargeError
from zoofleet.models import transforms
from zoofleet.models.transforms._image import to_float

LIMIT = 50_000_000


def photograph(media: Path, width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A photograph with much noise, so that every way of interpolating its colours differs from any other."""
    image = Image.open(media / "chelsea.png").convert("RGB").resize((width, height))
    colours = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.blend(image, Image.fromarray(colours), 0.4).convert(mode)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def by_pillow(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Image.Image:
    with monkeypatch.context() as patch:
        patch.setattr(images, "_plain_jpeg", lambda image, data: None)
        return decode_image(data, LIMIT)


SIZES = [(1, 1), (7, 5), (16, 16), (17, 33), (3, 300), (251, 97)]
KINDS: list[dict[str, Any]] = [
    *({"subsampling": each} for each in ("4:4:4", "4:2:2", "4:2:0")),
    {"progressive": True},
    {"progressive": True, "subsampling": "4:2:2", "restart_marker_rows": 1},
    {"restart_marker_blocks": 3},
    {"keep_rgb": True},
    {"quality": 100, "optimize": True},
    {"quality": 5},
]


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", KINDS)
def test_pixels_are_those_of_pillow(
    media: Path, mode: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in SIZES:
        data = jpeg(photograph(media, *size, mode), **options)
        expected = by_pillow(data, monkeypatch)
        with monkeypatch.context() as patch:
            patch.delattr(Image.Image, "tobytes")  # Pillow has no part in it
            decoded = decode_image(data, LIMIT)
            pixels = np.asarray(decoded)
        assert decoded.mode == "RGB" and decoded.size == size
        np.testing.assert_array_equal(pixels, np.asarray(expected))


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411", "Gray"])
def test_each_subsampling(media: Path, subsampling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in SIZES:
        pixels = np.asarray(photograph(media, *size))
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 90, "RGB", subsampling)
        np.testing.assert_array_equal(np.asarray(decode_image(data, LIMIT)), np.asarray(by_pillow(data, monkeypatch)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(media: Path, orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(photograph(media, 37, 21), exif=exif)
    decoded = decode_image(data, LIMIT)
    assert decoded.size == ((37, 21) if orientation < 5 else (21, 37))
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(by_pillow(data, monkeypatch)))


def test_cmyk_is_left_to_pillow(media: Path) -> None:
    data = jpeg(photograph(media, 30, 20, "CMYK"))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(decode_image(data, LIMIT)), expected)


def test_the_limit_is_checked_before_anything_is_decoded(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(photograph(media, 60, 40))
    monkeypatch.delattr(simplejpeg, "decode_jpeg")
    with pytest.raises(ItemTooLargeError, match="60 x 40 pixels; accepted: at most 2399"):
        decode_image(data, 2399)


def test_damaged_files_end_as_they_do_with_pillow(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    ended: set[bool] = set()
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 2}):
        whole = jpeg(photograph(media, 64, 48), **options)
        damaged = [whole[: int(end)] for end in rng.integers(2, len(whole), 60)] + [whole + b"\0" * 9, whole[:-2]]
        for _, last in itertools.product(range(60), (700, len(whole))):
            bytes_ = np.frombuffer(whole, np.uint8).copy()
            bytes_[rng.integers(2, last, 3)] = rng.integers(0, 256, 3)
            damaged.append(bytes_.tobytes())
        for data in damaged:
            outcomes: list[Any] = []
            for pillow in (False, True):
                try:
                    decoded = by_pillow(data, monkeypatch) if pillow else decode_image(data, LIMIT)
                    outcomes.append(np.asarray(decoded))
                except (InvalidMediaError, ItemTooLargeError) as error:
                    outcomes.append((type(error), str(error)))
            ended.add(isinstance(outcomes[0], tuple))
            np.testing.assert_equal(outcomes[0], outcomes[1])
    assert ended == {True, False}


def test_an_image_is_pillows_in_every_other_respect(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(photograph(media, 60, 40))
    expected = by_pillow(data, monkeypatch)
    uses: dict[str, Callable[[Image.Image], Image.Image]] = {
        "resize": lambda image: image.resize((31, 17)),
        "crop": lambda image: image.crop((5, 6, 30, 39)),
        "crop beyond": lambda image: image.crop((-5, 6, 30, 99)),
        "crop all": lambda image: image.crop(),
        "convert": lambda image: image.convert("L"),
        "copy": lambda image: image.copy(),
        "transpose": lambda image: image.transpose(Image.Transpose.ROTATE_90),
        "crop and resize": lambda image: image.crop((0, 1, 9, 9)).resize((5, 5)),
    }
    for name, use in uses.items():
        np.testing.assert_array_equal(np.asarray(use(decode_image(data, LIMIT))), np.asarray(use(expected)), name)
    changed = decode_image(data, LIMIT)
    pixels = np.asarray(changed)
    changed.putpixel((3, 4), (1, 2, 3))
    assert np.asarray(changed)[4, 3].tolist() == [1, 2, 3] == list(changed.getpixel((3, 4)))  # type: ignore[arg-type]
    np.testing.assert_array_equal(pixels, np.asarray(expected))
    assert changed.tobytes() != expected.tobytes() == decode_image(data, LIMIT).tobytes()


def test_presets_take_the_pixels_without_a_copy(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(photograph(media, 300, 200))
    plain = by_pillow(data, monkeypatch)
    presets: list[Callable[..., torch.Tensor]] = [
        transforms.ImageClassification(crop_size=64, resize_size=80),
        transforms.ObjectDetection(),
        transforms.SemanticSegmentation(resize_size=50),
    ]
    with warnings.catch_warnings(action="error"):
        for preset in presets:
            assert torch.equal(preset(decode_image(data, LIMIT)), preset(plain))
        with monkeypatch.context() as patch:
            patch.delattr(Image.Image, "tobytes")
            for preset in presets[:2]:
                preset(decode_image(data, LIMIT))
            to_float(decode_image(data, LIMIT))
