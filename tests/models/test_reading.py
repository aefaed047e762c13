"""Reading, drawing and the classic transforms, against Pillow and PyAV themselves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.odd_media import FRAMES, clip_with_latin1_tags, odd_images

from zoofleet import transforms as T  # noqa: N812 - as the reference's pages call it
from zoofleet.errors import InvalidArgumentError, InvalidMediaError, MediaNotFoundError
from zoofleet.io import read_image, read_video
from zoofleet.io.image import read_image as from_module
from zoofleet.io.video import read_video as video_from_module
from zoofleet.transforms.functional import to_pil_image
from zoofleet.utils import draw_bounding_boxes


def test_images_are_read_as_pillow_reads_them(media: Path) -> None:
    assert from_module is read_image and video_from_module is read_video
    expected = np.asarray(Image.open(media / "rocket.jpg"))
    image = read_image(media / "rocket.jpg")
    assert image.dtype == torch.uint8 and image.is_contiguous()
    assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)
    assert np.array_equal(np.asarray(to_pil_image(image)), expected)


def test_images_are_rgb_and_upright(tmp_path: Path) -> None:
    Image.new("L", (5, 4), 7).save(tmp_path / "grey.png")
    assert read_image(str(tmp_path / "grey.png")).equal(torch.full((3, 4, 5), 7, dtype=torch.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    Image.new("RGB", (50, 40)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (3, 50, 40)


def test_videos_are_read_whole(media: Path) -> None:
    video, sound, info = read_video(media / "bigbuckbunny.mp4")
    assert video.shape[1:] == (720, 1280, 3) and video.dtype == torch.uint8
    assert sound.shape == (1, 0) and info == {"video_fps": pytest.approx(25, abs=1)}
    planar, _, _ = read_video(str(media / "bigbuckbunny.mp4"), output_format="TCHW")
    assert planar.permute(0, 2, 3, 1).equal(video)


@pytest.mark.parametrize("read", [read_image, read_video])
def test_what_cannot_be_read_is_named(read: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing.x.*No such file") as missing:
        read(tmp_path / "missing.x")
    assert type(missing.value) is MediaNotFoundError
    with pytest.raises(InvalidMediaError, match="Is a directory"):
        read(tmp_path)
    with pytest.raises(InvalidMediaError, match="null byte"):
        read(tmp_path / "\0")
    (tmp_path / "text.txt").write_text("no picture")
    with pytest.raises(InvalidMediaError):
        read(tmp_path / "text.txt")


@pytest.mark.parametrize("container", ["avi", "mp4", "matroska"])
def test_videos_whose_tags_are_no_utf8_are_read(container: str, tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(clip_with_latin1_tags(container))
    video, _, info = read_video(tmp_path / "clip")
    assert video.shape == (FRAMES, 48, 64, 3) and info == {"video_fps": 25}


def test_nothing_is_said_of_odd_files(tmp_path: Path) -> None:
    for name, data in odd_images().items():
        (tmp_path / name).write_bytes(data)
    clip = clip_with_latin1_tags("avi")
    (tmp_path / "clip.avi").write_bytes(clip[: len(clip) // 2] + bytes(len(clip) // 2))
    code = """
import sys, threading, zoofleet.io
from zoofleet.errors import InvalidMediaError
def read(path):
    try:
        (zoofleet.io.read_video if path.endswith(".avi") else zoofleet.io.read_image)(path)
    except InvalidMediaError:
        print(path)
for path in sys.argv[1:]:
    read(path)
    thread = threading.Thread(target=read, args=(path,))
    thread.start()
    thread.join()
"""
    command = [sys.executable, "-W", "always", "-c", code, *sorted(map(str, tmp_path.iterdir()))]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [str(tmp_path / name) for name in ("clip.avi", "samples.tif") for _ in range(2)]
    assert said.stderr == ""


def test_other_orders_of_axes_are_refused(media: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="'CTHW'; accepted: 'THWC', 'TCHW'"):
        read_video(media / "bigbuckbunny.mp4", output_format="CTHW")  # type: ignore[arg-type]


def test_boxes_are_drawn_in_their_colours_on_a_copy() -> None:
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    boxes = torch.tensor([[5.0, 5, 30, 30], [35, 10, 50, 20]])
    drawn = draw_bounding_boxes(image, boxes, colors=["red", (0, 255, 0)], width=2)
    assert not image.any()
    assert drawn[:, 5, 5].tolist() == drawn[:, 6, 20].tolist() == [255, 0, 0]
    assert drawn[:, 10, 40].tolist() == [0, 255, 0]
    assert not drawn[:, 7:29, 7:29].any() and not drawn[:, :5].any()
    labelled = draw_bounding_boxes(image, boxes, ["cat", "dog"], colors="#ff0000", font_size=12)
    assert labelled[0, 7:29, 7:29].any() and not labelled[1:].any()
    assert draw_bounding_boxes(image, boxes).any()
    assert draw_bounding_boxes(image, torch.empty(0, 4)).equal(image)
    assert draw_bounding_boxes(torch.zeros(1, 8, 8), boxes[:0]).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"boxes": torch.zeros(4)}, r"shape \(4,\)"),
        ({"boxes": torch.tensor([[5.0, 5, 4, 9]])}, "x0 <= x1"),
        ({"boxes": torch.tensor([[5.0, 5, torch.nan, 9]])}, "finite"),
        ({"labels": ["one", "two"]}, "2 labels for 1 boxes"),
        ({"colors": ["red", "blue"]}, "2 colors for 1 boxes"),
        ({"colors": "reddish"}, "reddish"),
        ({"image": torch.zeros(2, 5, 5)}, r"shape \(2, 5, 5\)"),
    ],
)
def test_drawings_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    valid = {"image": torch.zeros(3, 9, 9), "boxes": torch.tensor([[1.0, 1, 5, 5]])}
    with pytest.raises(InvalidArgumentError, match=message):
        draw_bounding_boxes(**valid | arguments)


def test_pictures_of_tensors() -> None:
    ramp = torch.tensor([[0.0, 0.5], [1.0, 2.0]])
    assert np.asarray(to_pil_image(ramp)).tolist() == [[0, 127], [255, 255]]
    assert to_pil_image(ramp[None]).mode == "L"
    with pytest.raises(InvalidArgumentError, match="int64"):
        to_pil_image(torch.zeros(3, 2, 2, dtype=torch.int64))


def test_classic_transforms_equal_pillow(media: Path) -> None:
    image = Image.open(media / "rocket.jpg")
    resized = image.resize((int(256 * 640 / 427), 256), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 224) / 2), 16
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224)))
    pipeline: list[Callable[[Any], Any]] = [T.Resize(256), T.CenterCrop(224)]
    pixels = T.Compose([*pipeline, T.PILToTensor()])(image)
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), expected)
    floats = T.Compose([*pipeline, T.ToTensor()])(image)
    torch.testing.assert_close(floats, pixels / 255)
    assert T.ConvertImageDtype(torch.float)(pixels).equal(floats)
    assert T.ConvertImageDtype(torch.float64)(floats).dtype == torch.float64
    with pytest.raises(InvalidArgumentError, match="to floating point"):
        T.ConvertImageDtype(torch.int32)(pixels)
    assert T.PILToTensor()(image.convert("L")).shape == (1, 427, 640)
    assert T.Resize((20, 30))(image).size == (30, 20)
    assert "size=256" in repr(T.Compose(pipeline))
