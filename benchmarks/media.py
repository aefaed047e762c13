"""The pictures and clips that are sent, made from real ones."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from PIL import Image

MEDIA = Path(__file__).parent.parent / "tests" / "data" / "media"
CLIP_FRAMES = 32
CLIP_SIZE = (320, 180)


def make_images(folder: Path, count: int, size: tuple[int, int] = (500, 375)) -> list[Path]:
    """Different JPEGs, 500 x 375 unless said otherwise (ImageNet's usual size), cut from real photographs."""
    rng = np.random.default_rng(0)
    sources = [Image.open(path).convert("RGB") for path in sorted((*MEDIA.glob("*.png"), *MEDIA.glob("*.jpg")))]
    paths = []
    for index in range(count):
        source = sources[index % len(sources)]
        scale = rng.uniform(0.6, 1.0)
        width, height = int(source.width * scale), int(source.height * scale)
        x, y = (int(rng.integers(0, room + 1)) for room in (source.width - width, source.height - height))
        path = folder / f"{index:04}.jpg"
        source.crop((x, y, x + width, y + height)).resize(size).save(path, quality=90)
        paths.append(path)
    return paths


def make_clips(folder: Path, count: int) -> list[Path]:
    """Different MPEG-4 clips of 32 frames, 320 x 180, cut from a real video, one after the other and over again."""
    with av.open(str(MEDIA / "bigbuckbunny.mp4")) as video:
        frames = [frame.reformat(*CLIP_SIZE).to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    paths = []
    for index in range(count):
        path = folder / f"{index:04}.mp4"
        with av.open(str(path), "w") as clip:
            stream = clip.add_stream("mpeg4", rate=25)
            stream.width, stream.height = CLIP_SIZE
            stream.bit_rate = 1_000_000
            for k in range(CLIP_FRAMES):
                pixels = frames[(index * CLIP_FRAMES // 2 + k) % len(frames)]
                clip.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            clip.mux(stream.encode())
        paths.append(path)
    return paths
