"""Writes scenes with their ground truth as files: `python -m demo.dataset out/shapes --seed 1 --count 100`.

Under the folder:
    images/000000.png                   scenes of several sizes
    annotations.json                    their boxes, masks and keypoints, COCO JSON
    label_maps/000000.png               their label maps, palette PNG
    classes/<category>/000000.png       one shape each
    frames/000000/frame_0000.png        image pairs
    flow/000000/frame_0000.flo          the flow from the first to the second, Middlebury .flo
    videos/000000.mp4                   scenes that move, H.264
    clips/<motion>/000000.mp4           one shape each that moves in one way, H.264
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from PIL import Image

from demo import positive, whole_number
from demo.recipes import HELD_OUT, MOTION
from demo.world import CATEGORIES, KEYPOINTS, MOTIONS, Instance, Scene, portrait, scene
from zoofleet._media.rle import encode
from zoofleet._values.results import Flow, Segmentation
from zoofleet.v1.vision_pb2 import FLOW_ENCODING_FLO

_SIZES: Final = ((320, 240), (240, 320), (384, 288))
_FPS: Final = 12
_VIDEO_FRAMES: Final = 48
_VIDEO_SPEED: Final = 4.0
_CLIP_FRAMES: Final = 24


def write_images(folder: Path, seed: int, count: int) -> None:
    """Scenes with their COCO annotations and label maps."""
    images = _made(folder / "images")
    label_maps = _made(folder / "label_maps")
    coco: dict[str, Any] = {"info": {"description": f"Shapes, seed {seed}"}, "images": [], "annotations": []}
    coco["categories"] = [_category(name, number) for number, name in enumerate(CATEGORIES, start=1)]
    for i in range(count):
        width, height = _SIZES[i % len(_SIZES)]
        frame = scene(HELD_OUT, seed, i, width=width, height=height).frame()
        name = f"{i:06}.png"
        Image.fromarray(frame.image).save(images / name)
        (label_maps / name).write_bytes(Segmentation(frame.label_map, ()).to_proto().label_map)
        coco["images"].append({"id": i, "file_name": name, "width": width, "height": height})
        for instance in frame.instances:
            number = len(coco["annotations"]) + 1
            coco["annotations"].append({"id": number, "image_id": i, **_annotation(instance)})
    (folder / "annotations.json").write_text(json.dumps(coco), encoding="utf-8")


def _category(name: str, number: int) -> dict[str, Any]:
    category: dict[str, Any] = {"id": number, "name": name, "supercategory": "shape"}
    if name == "arrow":
        points = list(KEYPOINTS)
        tip = points.index("tip") + 1
        category |= {"keypoints": points, "skeleton": [[tip, i + 1] for i in range(len(points)) if i + 1 != tip]}
    return category


def _annotation(instance: Instance) -> dict[str, Any]:
    x0, y0, x1, y1 = instance.box
    annotation: dict[str, Any] = {
        "category_id": instance.category + 1,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(instance.mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(instance.mask.shape), "counts": encode(instance.mask).decode("ascii")},
    }
    if instance.keypoints is not None:
        annotation["keypoints"] = instance.keypoints.round(2).ravel().tolist()
        annotation["num_keypoints"] = int((instance.keypoints[:, 2] > 0).sum())
    return annotation


def write_classes(folder: Path, seed: int, count: int, side: int = 160) -> None:
    """Pictures of one shape each, a folder for each category."""
    for i in range(count):
        category = i % len(CATEGORIES)
        image = portrait(HELD_OUT, seed, i, category=category, side=side).frame().image
        Image.fromarray(image).save(_made(folder / "classes" / CATEGORIES[category]) / f"{i:06}.png")


def write_flow(folder: Path, seed: int, count: int) -> None:
    """Image pairs with the flow from the first to the second."""
    for i in range(count):
        frames, flow = (_made(folder / kind / f"{i:06}") for kind in ("frames", "flow"))
        moving = scene(HELD_OUT, seed, i, speed=MOTION, frames=2)
        for time in (0, 1):
            Image.fromarray(moving.frame(time).image).save(frames / f"frame_{time:04}.png")
        (flow / "frame_0000.flo").write_bytes(Flow(moving.flow()).to_proto(FLOW_ENCODING_FLO).data)


def write_videos(folder: Path, seed: int, count: int) -> None:
    """Scenes that move."""
    videos = _made(folder / "videos")
    for i in range(count):
        moving = scene(HELD_OUT, seed, i, count=(4, 6), radius=(0.15, 0.28), speed=_VIDEO_SPEED, frames=_VIDEO_FRAMES)
        _write_h264(videos / f"{i:06}.mp4", moving, _VIDEO_FRAMES)


def write_clips(folder: Path, seed: int, count: int) -> None:
    """Clips of one shape each that moves in one way, a folder for each way."""
    names = list(MOTIONS)
    for i in range(count):
        random = np.random.default_rng((HELD_OUT, seed, i, 2))
        name = names[i % len(names)]
        pace = {"clockwise": 0.08, "counterclockwise": 0.08, "growing": 0.025, "shrinking": 0.025}.get(name, 2.5)
        motion = MOTIONS[name].scaled(pace * random.uniform(0.6, 1.4))
        category = int(random.integers(len(CATEGORIES)))
        moving = portrait(HELD_OUT, seed, i, category=category, motion=motion, frames=_CLIP_FRAMES)
        path = _made(folder / "clips" / name) / f"{i:06}.mp4"
        _write_h264(path, moving, _CLIP_FRAMES)


def _write_h264(path: Path, moving: Scene, count: int) -> None:
    with av.open(str(path), "w") as target:
        stream = target.add_stream(
            "libx264", rate=_FPS, width=moving.width, height=moving.height, options={"crf": "16"}
        )
        for time in range(count):
            image = moving.frame(time).image
            target.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        target.mux(stream.encode())


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write(folder: Path, seed: int, count: int) -> None:
    """All kinds: `count` scenes, as many classes and clips, half as many image pairs, and two videos."""
    write_images(folder, seed, count)
    write_classes(folder, seed, count)
    write_flow(folder, seed, max(1, count // 2))
    write_videos(folder, seed, 2)
    write_clips(folder, seed, count)


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.dataset", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=whole_number, default=1, help="no training scene is made from any of these")
    parser.add_argument("--count", type=positive, default=100, help="of scenes, classes and clips; half as many pairs")
    options = parser.parse_args()
    try:
        write(options.folder, options.seed, options.count)
    except OSError as error:
        parser.error(f"cannot write into {options.folder}: {error}")


if __name__ == "__main__":
    main()
