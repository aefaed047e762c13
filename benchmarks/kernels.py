"""Measures Zoofleet's kernels beside the plain formulations that they replace, on the same inputs in one run."""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from benchmarks.bulk import machine
from PIL import Image
from pycocotools import mask as coco
from torch import Tensor
from torch.nn import functional

from zoofleet._media.images import decode_image
from zoofleet.models.detection import paste_masks
from zoofleet.models.ops import _reference, box_iou, nms, paste_masks_to_rle, roi_align, upsampled_argmax
from zoofleet.models.transforms import ImageClassification
from zoofleet.models.transforms._image import Interpolation, center_crop, normalize, resize, to_float

HEIGHT, WIDTH = 720, 1280
ROUNDS = 30
SLOW_ROUNDS = 3
MAX_PIXELS = 50_000_000
PHOTOGRAPH = Path(__file__).parent.parent / "tests/data/media/rocket.jpg"


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def compare(name: str, ours: Callable[[], object], plain: Callable[[], object], rounds: int = ROUNDS) -> None:
    """Print one row: the best of `rounds` turns, since whatever else runs on the machine only adds to them."""
    turns = [(timed(ours), timed(plain)) for _ in range(rounds)]
    kernel, loop = (min(times) * 1000 for times in zip(*turns, strict=True))
    print(f"| {name} | {kernel:.2f} ms | {loop:.2f} ms | {loop / kernel:.1f} |", flush=True)


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    """Of 20 to 200 pixels a side, anywhere in the image."""
    center = torch.rand(count, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT])
    half = torch.rand(count, 2, generator=generator) * 90 + 10
    boxes = torch.cat([center - half, center + half], dim=1)
    return boxes.clamp(min=0).minimum(torch.tensor([WIDTH, HEIGHT]).repeat(2))


def greedy_loop(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    order = scores.argsort(descending=True, stable=True)
    kept = []
    while len(order):
        kept.append(order[0])
        overlap = box_iou(boxes[order[:1]], boxes[order[1:]])[0]
        order = order[1:][overlap <= threshold]
    return torch.stack(kept)


def plain_roi_align(features: Tensor, boxes: Tensor, size: int, scale: float, samples: int) -> Tensor:
    """RoIAlign of one image through `grid_sample`."""
    count = size * samples
    start, extent = boxes[:, :2] * scale, (boxes[:, 2:] - boxes[:, :2]).mul(scale).clamp(min=1)
    steps = (torch.arange(count) + 0.5) / count
    position = start[:, None] + steps[:, None] * extent[:, None]  # (K, count, 2) as x, y
    limit = torch.tensor([features.shape[3] - 1, features.shape[2] - 1])
    x, y = (position / limit * 2 - 1).unbind(2)  # (K, count)
    points = (x[:, None, :].expand(-1, count, -1), y[:, :, None].expand(-1, -1, count))
    grid = torch.stack(points, dim=3).flatten(0, 1)  # (K*count, count, 2)
    sampled = functional.grid_sample(features, grid[None], padding_mode="border", align_corners=True)[0]
    pooled = functional.avg_pool2d(sampled, samples)  # (C, K*size, size)
    return pooled.reshape(len(pooled), -1, size, size).transpose(0, 1)  # (K, C, size, size)


def plain_preprocessing(preset: ImageClassification, image: Image.Image) -> Tensor:
    resized = resize(image, (preset.resize_size,), preset.interpolation)
    cropped = center_crop(resized, (preset.crop_size, preset.crop_size))
    return normalize(to_float(cropped), preset.mean, preset.std)


def found_masks() -> tuple[Tensor, Tensor]:
    """100 blobs within boxes of 64 to 640 x 36 to 360 pixels."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(100, 1, 28, 28, generator=generator)
    smooth = functional.avg_pool2d(noise, 7, 1, 3, count_include_pad=False)
    center = torch.rand(100, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT])
    half = (torch.rand(100, 1, generator=generator) * 0.225 + 0.025) * torch.tensor([WIDTH, HEIGHT])
    return smooth, torch.cat([center - half, center + half], dim=1)


def paste_to_rle(masks: Tensor, boxes: Tensor) -> list[bytes]:
    return paste_masks_to_rle(masks[:, 0], boxes, (HEIGHT, WIDTH))


def paste_floats(masks: Tensor, boxes: Tensor) -> list[bytes]:
    found = paste_masks(masks, boxes, (HEIGHT, WIDTH))[:, 0] > 0.5
    return [coco.encode(np.asfortranarray(mask.numpy().view(np.uint8)))["counts"] for mask in found]


PASTES = {"kernel": paste_to_rle, "floats": paste_floats}


def print_peak(way: str) -> None:
    """Print by how many bytes 100 masks raise this process's peak."""

    def peak() -> int:  # of this program: getrusage's goes on from the one that started it
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    masks, boxes = found_masks()
    PASTES[way](masks[:1], boxes[:1])
    before = peak()
    PASTES[way](masks, boxes)
    print(peak() - before)


def peak_of(way: str) -> float:
    """MiB; measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.kernels", "--peak", way]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return int(done.stdout) / 2**20


def measure_nms(generator: torch.Generator) -> None:
    for count, rounds in ((1_000, SLOW_ROUNDS), (10_000, SLOW_ROUNDS), (100_000, 1)):
        boxes, scores = random_boxes(count, generator), torch.rand(count, generator=generator)
        kept = nms(boxes, scores, 0.5)
        assert torch.equal(kept, greedy_loop(boxes, scores, 0.5))
        name = f"nms, {count:,} boxes of which {len(kept):,} stay"
        compare(name, partial(nms, boxes, scores, 0.5), partial(greedy_loop, boxes, scores, 0.5), rounds)


def measure_roi_align(generator: torch.Generator) -> None:
    features = torch.randn(1, 256, HEIGHT // 8, WIDTH // 8, generator=generator)
    boxes = random_boxes(1000, generator)
    expected = plain_roi_align(features, boxes, 7, 1 / 8, 2)
    torch.testing.assert_close(roi_align(features, [boxes], 7, 1 / 8, 2), expected, rtol=1e-3, atol=1e-3)
    ours = partial(roi_align, features, [boxes], 7, 1 / 8, 2)
    plain = partial(plain_roi_align, features, boxes, 7, 1 / 8, 2)
    compare("roi_align, 1,000 boxes to 7 x 7 of 256 channels", ours, plain, SLOW_ROUNDS)


def measure_masks() -> None:
    masks, boxes = found_masks()
    assert paste_to_rle(masks, boxes) == paste_floats(masks, boxes)
    name = f"paste to run lengths, 100 masks, {WIDTH} x {HEIGHT}"
    compare(name, partial(paste_to_rle, masks, boxes), partial(paste_floats, masks, boxes), SLOW_ROUNDS)
    ours, plain = peak_of("kernel"), peak_of("floats")
    print(f"| the same, peak memory | {ours:.1f} MiB | {plain:.1f} MiB | {plain / max(ours, 0.1):.0f} |", flush=True)


def measure_preprocessing() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    modes: tuple[Interpolation, ...] = ("bilinear", "bicubic")
    for mode in modes:
        preset = ImageClassification(crop_size=224, interpolation=mode)
        ours, plain = partial(preset, image), partial(plain_preprocessing, preset, image)
        assert torch.equal(ours(), plain())
        compare(f"preprocessing, {mode}, {WIDTH} x {HEIGHT} to 224 x 224", ours, plain)


def measure_argmax(generator: torch.Generator) -> None:
    batch = torch.randn(1, 21, 520, 693, generator=generator).to(memory_format=torch.channels_last)
    for layout, logits in (("channels last", batch[0]), ("contiguous", batch[0].contiguous())):
        assert torch.equal(upsampled_argmax(logits, (375, 500)), _reference.upsampled_argmax(logits, (375, 500)))
        ours, plain = (partial(f, logits, (375, 500)) for f in (upsampled_argmax, _reference.upsampled_argmax))
        compare(f"upsampled_argmax, 21 x 520 x 693, {layout}, to 375 x 500", ours, plain)


def measure_jpegs() -> None:
    """Decode photographs to arrays, in the calling thread and in two at once."""
    for width, height, rounds in ((256, 256, 200), (512, 512, 100), (4000, 3000, 5)):
        buffer = io.BytesIO()
        Image.open(PHOTOGRAPH).resize((width, height)).save(buffer, "JPEG", quality=90)
        data = buffer.getvalue()
        assert np.array_equal(decoded_array(data), pillow_array(data))
        compare(f"JPEG to array, {width} x {height}", partial(decoded_array, data), partial(pillow_array, data), rounds)
        ours, plain = (partial(in_two_threads, partial(f, data)) for f in (decoded_array, pillow_array))
        compare("the same, in two threads at once", ours, plain, rounds)


def decoded_array(data: bytes) -> np.ndarray:
    return np.asarray(decode_image(data, MAX_PIXELS))


def pillow_array(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)))


def in_two_threads(call: Callable[[], object]) -> None:
    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak", choices=PASTES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print_peak(arguments.peak)
        return
    generator = torch.Generator().manual_seed(0)
    print(f"On: {machine()}, {torch.get_num_threads()} threads\n")
    print("| | kernel | plain torch, Pillow or pycocotools | ratio |\n| --- | --- | --- | --- |")
    with torch.inference_mode():
        measure_nms(generator)
        measure_roi_align(generator)
        measure_masks()
        measure_preprocessing()
        measure_argmax(generator)
    measure_jpegs()


if __name__ == "__main__":
    main()
