"""The fixed pictures on which plans are held against EXACT and measured. They are drawn, so that no file is needed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import numpy as np
from PIL import Image

from zoofleet._wire.kinds import TaskKind, kind_of
from zoofleet.worker.runner import Prepared, Runner

__all__ = ["examples"]

_SIZE: Final = (480, 360)
"""Width and height in pixels: 4:3, as photographs have."""


def examples(
    runner: Runner[Any], shape_class: tuple[int, ...], count: int, *, is_upright: bool = False
) -> list[Prepared]:
    """Return items of a class of shapes, which may share a batch.

    Args:
        runner: prepares them.
        shape_class: as `Runner.shape_class` gave it.
        count: number of items.
        is_upright: whether pictures are higher than wide; otherwise they are wider than high.
    """
    is_clip = kind_of(runner.name) is TaskKind.CLASSIFY_CLIP
    options = runner.default_options(**{"num_frames": shape_class[0]} if is_clip else {})
    window = runner.window(options)
    pictures = _pictures(window.size, _SIZE[::-1] if is_upright else _SIZE)
    return [runner.prepare(list(islice(pictures, window.size)), options) for _ in range(count)]


def _pictures(run: int, size: tuple[int, int]) -> Iterator[Image.Image]:
    """Draw pictures without end; each run of `run` shows one scene that moves by 2 pixels from picture to picture."""
    width, height = size
    index = 0
    while True:
        generator = np.random.default_rng(index)
        noise = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        scene = Image.fromarray(noise).resize((width + 2 * run, height), Image.Resampling.BICUBIC)
        for _ in range(12):  # edges and flat areas, which smooth noise lacks
            left, top = int(generator.integers(0, width - 40)), int(generator.integers(0, height - 40))
            size = (int(generator.integers(20, 160)), int(generator.integers(20, 160)))
            scene.paste(
                tuple(int(level) for level in generator.integers(0, 256, 3)), (left, top, left + size[0], top + size[1])
            )
        for step in range(run):
            yield scene.crop((2 * step, 0, 2 * step + width, height))
        index += 1
