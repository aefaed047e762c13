"""`resize_normalize` against Pillow, to the last bit, and against plain loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.ops import _reference, resize_normalize

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def random_image(height: int, width: int, seed: int = 0) -> Image.Image:
    """Noise, with edges in pure black and white, over which bicubic overshoots."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 2] = (pixels[: height // 2, : width // 2] > 127) * 255
    return Image.fromarray(pixels)


def by_pillow(image: Image.Image, size: tuple[int, int], crop: tuple[int, int, int, int], mode: str) -> Tensor:
    top, left, height, width = crop
    # In two steps, the width first.
    narrow = image.resize((size[1], image.height), FILTERS[mode])
    resized = narrow.resize((size[1], size[0]), FILTERS[mode]).crop((left, top, left + width, top + height))
    values = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float().div(255)  # (3, height, width)
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@pytest.fixture(params=[1, 4])
def threads(request: pytest.FixtureRequest) -> object:
    """Runs the test with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("full", [(1, 1), (1, 300), (300, 1), (3, 2), (100, 60), (97, 251), (720, 1280)])
def test_equals_pillow(full: tuple[int, int], mode: str) -> None:
    image = random_image(*full)
    pixels = torch.from_numpy(np.array(image))
    for size in [full, (1, 1), (40, 71), (256, 455), (301, 7)]:
        for crop in [(0, 0, *size), (size[0] // 3, size[1] // 4, 5, 6), (-3, -2, size[0] + 5, size[1] + 9)]:
            expected = by_pillow(image, size, crop, mode)
            assert torch.equal(resize_normalize(image, size, crop, MEAN, STD, mode), expected)  # type: ignore[arg-type]
            assert torch.equal(resize_normalize(pixels, size, crop, MEAN, STD, mode), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("bicubic", [False, True])
@pytest.mark.parametrize(("full", "size"), [((7, 9), (3, 4)), ((5, 4), (11, 13)), ((8, 8), (8, 8)), ((1, 6), (2, 5))])
def test_equals_reference(full: tuple[int, int], size: tuple[int, int], bicubic: bool) -> None:
    pixels = torch.from_numpy(np.array(random_image(*full)))
    mode = "bicubic" if bicubic else "bilinear"
    levels = resize_normalize(pixels, size, (0, 0, *size), (0, 0, 0), (1 / 255,) * 3, mode)  # type: ignore[arg-type]
    expected = _reference.resize(pixels, size, bicubic)
    assert torch.equal(levels.round().byte(), expected.permute(2, 0, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_is_rounded_float32(dtype: torch.dtype) -> None:
    image = random_image(50, 70)
    exact = resize_normalize(image, (20, 28), (2, 3, 16, 17), MEAN, STD)
    rounded = resize_normalize(image, (20, 28), (2, 3, 16, 17), MEAN, STD, dtype=dtype)
    assert torch.equal(rounded, exact.to(dtype))


def test_odd_strides() -> None:
    pixels = torch.from_numpy(np.array(random_image(40, 60)))
    view = pixels.transpose(0, 1)[::2]
    arguments = ((20, 28), (0, 0, 20, 28), MEAN, STD)
    assert torch.equal(resize_normalize(view, *arguments), resize_normalize(view.contiguous(), *arguments))


@pytest.mark.parametrize("crop", [(0, 0, 0, 0), (0, 0, 0, 5), (3, 3, 4, 0)])
def test_empty_crop(crop: tuple[int, int, int, int]) -> None:
    image = random_image(9, 9)
    for each in (image, torch.from_numpy(np.array(image))):
        assert resize_normalize(each, (5, 5), crop, MEAN, STD).shape == (3, *crop[2:])


@pytest.mark.parametrize("crop", [(-50, 0, 9, 9), (0, -50, 9, 9), (50, 50, 9, 9), (2**40, -(2**40), 2, 2)])
def test_crop_beside_the_image_is_black(crop: tuple[int, int, int, int]) -> None:
    black = -torch.tensor(MEAN) / torch.tensor(STD)
    out = resize_normalize(random_image(30, 30), (20, 20), crop, MEAN, STD)
    assert torch.equal(out, black[:, None, None].expand(3, *crop[2:]))


IMAGE = torch.zeros(4, 4, 3, dtype=torch.uint8)
BOX = (0, 0, 2, 2)
BAD: list[tuple[str, Callable[[], Tensor]]] = [
    (r"image is \(3, 4, 4\)", lambda: resize_normalize(IMAGE.permute(2, 0, 1), (2, 2), BOX, MEAN, STD)),
    (r"image is \(4, 4, 3\) torch.float32", lambda: resize_normalize(IMAGE.float(), (2, 2), BOX, MEAN, STD)),
    (r"an image of \(0, 4\) pixels", lambda: resize_normalize(IMAGE[:0], (2, 2), BOX, MEAN, STD)),
    (r"mode 'L'", lambda: resize_normalize(Image.new("L", (4, 4)), (2, 2), BOX, MEAN, STD)),
    (r"size is \(0, 2\)", lambda: resize_normalize(IMAGE, (0, 2), BOX, MEAN, STD)),
    (r"crop is \(0, 0, -1, 2\)", lambda: resize_normalize(IMAGE, (2, 2), (0, 0, -1, 2), MEAN, STD)),
    (r"mean is \(0.5,\)", lambda: resize_normalize(IMAGE, (2, 2), BOX, (0.5,), STD)),
    (r"interpolation is 'area'", lambda: resize_normalize(IMAGE, (2, 2), BOX, MEAN, STD, "area")),  # type: ignore[arg-type]
    (r"dtype is torch.float64", lambda: resize_normalize(IMAGE, (2, 2), BOX, MEAN, STD, dtype=torch.float64)),
]


@pytest.mark.parametrize(("message", "call"), BAD)
def test_bad_arguments(message: str, call: Callable[[], Tensor]) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        call()


def test_part_that_lacks_pixels_is_refused() -> None:
    resize = torch.ops.zoofleet.resize_normalize
    table = torch.zeros(3, 256)
    assert resize(IMAGE, (2, 0), (9, 9), (9, 9), (3, 1, 2, 2), False, table).shape == (3, 2, 2)
    for origin in [(4, 0), (-1, 0), (2, 3), (0, 0)]:
        with pytest.raises(InvalidArgumentError, match="lacks pixels"):
            resize(IMAGE, origin, (9, 9), (9, 9), (3, 1, 2, 2), False, table)


def test_opcheck() -> None:
    table = torch.rand(3, 256)
    for each in (table, table.bfloat16()):
        arguments = (IMAGE, [0, 0], [4, 4], [3, 3], [0, 0, 3, 2], True, each)
        torch.library.opcheck(torch.ops.zoofleet.resize_normalize.default, arguments)
