"""A procedural world of textured shapes: images, clips and their exact ground truth from a seed.

A `Scene` holds shapes that move over a background that moves; `Scene.frame` draws it at a time and says what stands
where, `Scene.flow` says where each pixel goes. Coordinates are continuous: pixel (row i, column j) has its centre at
(x, y) = (j + 0.5, i + 0.5), and a box's right and lower edge are where its last pixel ends, as in COCO.

A scene is a function of its arguments; numpy keeps the random streams of `default_rng` from one version to the next,
but does not promise to (NEP 19).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from demo.textures import contrasting, texture

Float: TypeAlias = npt.NDArray[np.float32]
UInt8: TypeAlias = npt.NDArray[np.uint8]
Bool: TypeAlias = npt.NDArray[np.bool_]
Affine: TypeAlias = npt.NDArray[np.float64]
Distance: TypeAlias = Any
"""An array like its arguments, which is more than numpy's types say of `np.maximum`."""

_REACH: Final = 1.2
"""Half the side of the square, in radii, that holds any shape."""
_STAR_INNER: Final = 0.45
_MARGIN: Final = 24.0
"""Pixels of background beyond the image that a scene without motion has."""
_BACKGROUND_SCALE: Final = 2.0
"""Pixels per texel of the background; its texture is the dearest part of a scene."""


def _circle(x: Float, y: Float) -> Distance:
    return np.hypot(x, y) - 1


def _square(x: Float, y: Float) -> Distance:
    return np.maximum(np.abs(x), np.abs(y)) - 0.8


def _triangle(x: Float, y: Float) -> Distance:
    return np.maximum(-x, 0.5 * x + np.sqrt(0.75) * np.abs(y)) - 0.5


def _star(x: Float, y: Float) -> Distance:
    """Five points, folded onto half of one: the edge from its tip (1, 0) to the notch beside it."""
    step = 2 * np.pi / 5
    angle = np.abs((np.arctan2(y, x) + step / 2) % step - step / 2)
    radius = np.hypot(x, y)
    notch = _STAR_INNER * np.array([np.cos(step / 2), np.sin(step / 2)])
    normal = np.array([notch[1], 1 - notch[0]]) / np.hypot(notch[1], 1 - notch[0])
    return (radius * np.cos(angle) - 1) * normal[0] + radius * np.sin(angle) * normal[1]


def _cross(x: Float, y: Float) -> Distance:
    return np.maximum(np.maximum(np.abs(x), np.abs(y)) - 1, np.minimum(np.abs(x), np.abs(y)) - 0.33)


def _ring(x: Float, y: Float) -> Distance:
    return np.abs(np.hypot(x, y) - 0.75) - 0.25


def _crescent(x: Float, y: Float) -> Distance:
    return np.maximum(np.hypot(x, y) - 1, 0.8 - np.hypot(x - 0.55, y))


def _arrow(x: Float, y: Float) -> Distance:
    slope = np.hypot(0.75, 0.9)
    head = np.maximum(0.1 - x, (0.75 * (x - 1) + 0.9 * np.abs(y)) / slope)
    shaft = np.maximum(np.maximum(-1 - x, x - 0.2), np.abs(y) - 0.25)
    return np.minimum(head, shaft)


_OUTLINES: Final[Mapping[str, Callable[[Float, Float], Distance]]] = MappingProxyType(
    {
        "circle": _circle,
        "square": _square,
        "triangle": _triangle,
        "star": _star,
        "cross": _cross,
        "ring": _ring,
        "crescent": _crescent,
        "arrow": _arrow,
    }
)

CATEGORIES: Final = tuple(_OUTLINES)
"""Names of the shapes; a shape's label in label maps and its COCO category id is its position here plus 1."""

KEYPOINTS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {"tip": (1.0, 0.0), "left_barb": (0.1, -0.75), "right_barb": (0.1, 0.75), "tail": (-1.0, 0.0)}
)
"""The named points of an arrow, in its own coordinates: it points along x, and y is to its right."""


@dataclass(frozen=True, slots=True)
class Motion:
    """What changes from a frame to the next.

    Attributes:
        dx, dy: pixels, to the right and down.
        spin: radians, clockwise as seen.
        growth: natural logarithm of the factor in size.
    """

    dx: float = 0.0
    dy: float = 0.0
    spin: float = 0.0
    growth: float = 0.0

    def scaled(self, factor: float) -> Motion:
        """The same motion, so much faster."""
        return Motion(self.dx * factor, self.dy * factor, self.spin * factor, self.growth * factor)


MOTIONS: Final[Mapping[str, Motion]] = MappingProxyType(
    {
        "still": Motion(),
        "left": Motion(dx=-1),
        "right": Motion(dx=1),
        "up": Motion(dy=-1),
        "down": Motion(dy=1),
        "clockwise": Motion(spin=1),
        "counterclockwise": Motion(spin=-1),
        "growing": Motion(growth=1),
        "shrinking": Motion(growth=-1),
    }
)
"""The motion classes of clips, each as a direction."""


@dataclass(frozen=True, slots=True)
class Pose:
    """A place, size and heading, and how they change.

    Attributes:
        x, y: centre in pixels at time 0.
        size: pixels per unit of local coordinates at time 0; a shape's radius.
        angle: radians at time 0, clockwise as seen.
        motion: per frame.
    """

    x: float
    y: float
    size: float
    angle: float
    motion: Motion = Motion()

    def at(self, time: float) -> Affine:
        """float64 (3, 3): from local coordinates to pixels at that time, on homogeneous columns."""
        size = self.size * np.exp(self.motion.growth * time)
        angle = self.angle + self.motion.spin * time
        cos, sin = size * np.cos(angle), size * np.sin(angle)
        x, y = self.x + self.motion.dx * time, self.y + self.motion.dy * time
        return np.array([[cos, -sin, x], [sin, cos, y], [0, 0, 1]])


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """One shape of a scene: a position in `CATEGORIES`, a pose, and its texture over [-1.2, 1.2] in both axes."""

    category: int
    pose: Pose
    texture: Image.Image

    @property
    def name(self) -> str:
        """Its category's name."""
        return CATEGORIES[self.category]


@dataclass(frozen=True, eq=False)
class Instance:
    """What can be seen of a shape in a frame.

    Attributes:
        category: a position in `CATEGORIES`.
        mask: bool (H, W), its visible pixels, at least one.
        visibility: visible share of its pixels, those beyond the image's borders among them.
        keypoints: float64 (4, 3): x, y and COCO visibility (1 hidden, 2 visible) of an arrow's `KEYPOINTS`, 0, 0, 0 for
            those outside the image; None for other shapes.
    """

    category: int
    mask: Bool
    visibility: float
    keypoints: npt.NDArray[np.float64] | None

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 around its visible pixels."""
        columns, rows = np.flatnonzero(self.mask.any(0)), np.flatnonzero(self.mask.any(1))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A drawn scene.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        label_map: uint8 (H, W): 0 for background, else a category's position plus 1.
        instances: the shapes that can be seen, from the farthest to the nearest.
    """

    image: UInt8
    label_map: UInt8
    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Shapes over a background.

    Attributes:
        width, height: of its frames in pixels.
        shapes: from the farthest to the nearest.
        background: texture, whose pixels are its local coordinates, counted from its middle.
        camera: pose of the background.
        noise: standard deviation of the noise on each pixel, in grey levels.
        seed: of the noise.
    """

    width: int
    height: int
    shapes: tuple[Shape, ...]
    background: Image.Image
    camera: Pose
    noise: float
    seed: tuple[int, ...]

    def frame(self, time: int = 0) -> Frame:
        """The scene at a time, in frames."""
        to_local = np.linalg.inv(self.camera.at(time))
        origin = np.array([[1, 0, self.background.width / 2], [0, 1, self.background.height / 2], [0, 0, 1]])
        drawn = _warp(self.background, origin @ to_local, self.width, self.height)
        owner = np.zeros((self.height, self.width), dtype=np.uint8)
        areas = []
        for number, shape in enumerate(self.shapes, start=1):
            areas.append(_draw(shape, time, drawn, owner, number))
        random = np.random.default_rng((*self.seed, time))
        noise = random.standard_normal(drawn.shape, dtype=np.float32) * self.noise
        image = (drawn + noise).round().clip(0, 255).astype(np.uint8)
        labels = np.array([0, *(shape.category + 1 for shape in self.shapes)], dtype=np.uint8)
        instances = tuple(
            _instance(shape, time, owner == number, area)
            for number, (shape, area) in enumerate(zip(self.shapes, areas, strict=True), start=1)
            if (owner == number).any()
        )
        return Frame(image, labels[owner], instances)

    def owner(self, time: int = 0) -> UInt8:
        """uint8 (H, W): 0 where the background is seen, else the number of the shape, from 1."""
        owner = np.zeros((self.height, self.width), dtype=np.uint8)
        for number, shape in enumerate(self.shapes, start=1):
            rows, columns, distance = _cover(shape, time, self.width, self.height)[:3]
            owner[rows, columns][distance <= 0] = number
        return owner

    def flow(self, time: int = 0) -> Float:
        """float32 (2, H, W): where the point at each pixel's centre goes until the next frame, x then y, in pixels."""
        owner = self.owner(time)
        poses = [self.camera, *(shape.pose for shape in self.shapes)]
        steps = np.stack([pose.at(time + 1) @ np.linalg.inv(pose.at(time)) - np.eye(3) for pose in poses])
        step = steps[:, :2].astype(np.float32)[owner]  # (H, W, 2, 3)
        x = np.arange(self.width, dtype=np.float32) + 0.5
        y = np.arange(self.height, dtype=np.float32)[:, None] + 0.5
        flow = step[..., 0] * x[None, :, None] + step[..., 1] * y[:, :, None] + step[..., 2]  # (H, W, 2)
        return np.ascontiguousarray(flow.transpose(2, 0, 1))  # (2, H, W)

    def slowed(self, limit: float) -> Scene:
        """The same scene, slowed where need be until no pixel of the first frame moves by more than `limit`."""
        scene = self
        while (fastest := float(np.hypot(*scene.flow()).max())) > limit:
            factor = 0.99 * limit / fastest
            scene = replace(
                scene,
                camera=replace(scene.camera, motion=scene.camera.motion.scaled(factor)),
                shapes=tuple(
                    replace(s, pose=replace(s.pose, motion=s.pose.motion.scaled(factor))) for s in scene.shapes
                ),
            )
        return scene


def _warp(tile: Image.Image, to_tile: Affine, width: int, height: int) -> Float:
    """The tile under an affine map from pixels to its own, float32 (H, W, 3)."""
    drawn = tile.transform(
        (width, height), Image.Transform.AFFINE, tuple(to_tile[:2].ravel()), Image.Resampling.BILINEAR
    )
    return np.asarray(drawn).astype(np.float32)


def _cover(shape: Shape, time: float, width: int, height: int) -> tuple[slice, slice, Distance, int]:
    """Rows and columns near a shape, the distance in pixels of their centres from its outline, and its whole area.

    The distance is negative inside. It is exact near edges and a bound near corners.
    """
    to_pixel = shape.pose.at(time)
    size = float(np.hypot(to_pixel[0, 0], to_pixel[1, 0]))
    reach = np.ceil(_REACH * size)
    left, top = int(np.floor(to_pixel[0, 2] - reach)), int(np.floor(to_pixel[1, 2] - reach))
    side = int(2 * reach) + 2
    offsets = np.arange(side, dtype=np.float32) + 0.5
    to_local = np.linalg.inv(to_pixel).astype(np.float32)
    column, row = left + offsets[None, :], top + offsets[:, None]
    x = to_local[0, 0] * column + to_local[0, 1] * row + to_local[0, 2]  # (side, side)
    y = to_local[1, 0] * column + to_local[1, 1] * row + to_local[1, 2]
    distance = _OUTLINES[shape.name](x, y) * np.float32(size)
    inside = int((distance <= 0).sum())
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    x1, y1 = max(x0, x1), max(y0, y1)
    return slice(y0, y1), slice(x0, x1), distance[y0 - top : y1 - top, x0 - left : x1 - left], inside


def _draw(shape: Shape, time: float, drawn: Float, owner: UInt8, number: int) -> int:
    """Draw a shape over what is there, and note whose its pixels are.

    Returns:
        Its area in pixels, those that others hide or that lie outside among them.
    """
    rows, columns, distance, area = _cover(shape, time, owner.shape[1], owner.shape[0])
    if distance.size == 0:
        return area
    tile = shape.texture
    scale = tile.width / (2 * _REACH)
    to_tile = np.array([[scale, 0, tile.width / 2], [0, scale, tile.height / 2], [0, 0, 1]])
    shift = np.array([[1, 0, columns.start], [0, 1, rows.start], [0, 0, 1]])
    height, width = distance.shape
    texels = _warp(tile, to_tile @ np.linalg.inv(shape.pose.at(time)) @ shift, width, height)
    alpha = (0.5 - distance).clip(0, 1)[..., None]
    region = drawn[rows, columns]
    region += alpha * (texels - region)
    owner[rows, columns][distance <= 0] = number
    return area


def _instance(shape: Shape, time: float, mask: Bool, area: int) -> Instance:
    keypoints = None
    if shape.name == "arrow":
        height, width = mask.shape
        local = np.array([(*point, 1.0) for point in KEYPOINTS.values()]).T  # (3, 4)
        keypoints = np.zeros((len(KEYPOINTS), 3))
        for row, (x, y, _) in zip(keypoints, (shape.pose.at(time) @ local).T, strict=True):
            if 0 <= x < width and 0 <= y < height:
                # A point lies on the outline, so it counts as seen where its shape is seen beside it.
                near = mask[max(int(y) - 2, 0) : int(y) + 3, max(int(x) - 2, 0) : int(x) + 3]
                row[:] = x, y, 2 if near.any() else 1
    return Instance(shape.category, mask, float(mask.sum()) / max(area, 1), keypoints)


def scene(
    *seed: int,
    width: int = 320,
    height: int = 240,
    count: tuple[int, int] = (1, 6),
    radius: tuple[float, float] = (0.14, 0.3),
    speed: float = 0.0,
    frames: int = 1,
    visibility: float = 0.5,
) -> Scene:
    """A random scene.

    Args:
        *seed: non-negative integers.
        width, height: of its frames in pixels.
        count: least and greatest number of shapes; fewer where no place is found.
        radius: least and greatest radius of a shape, in parts of the shorter side.
        speed: most pixels that any pixel of the first frame moves by until the second; 0 for a still scene.
        frames: how many the background must suffice for.
        visibility: least visible share of each shape in the first frame.
    """
    random = np.random.default_rng(seed)
    drift = random.uniform(-0.35, 0.35, 2) * speed
    turn, zoom = min(0.02, 0.2 / frames), min(0.06, 0.4 / frames)  # so that long clips stay within their background
    camera = Motion(drift[0], drift[1], spin=random.uniform(-turn, turn), growth=random.uniform(-zoom, zoom) / 3)
    background, colour = _background(random, width, height, frames * speed)
    camera_pose = Pose(
        width / 2, height / 2, _BACKGROUND_SCALE, random.uniform(-0.2, 0.2), camera if speed else Motion()
    )
    made = Scene(width, height, (), background, camera_pose, random.uniform(0, 6), (*seed, 1))
    wanted = int(random.integers(count[0], count[1] + 1))
    for _ in range(4 * wanted):
        if len(made.shapes) == wanted:
            break
        size = float(random.uniform(*radius)) * min(width, height)
        pose = Pose(random.uniform(0, width), random.uniform(0, height), size, random.uniform(0, 2 * np.pi))
        if speed:
            direction, pace = random.uniform(0, 2 * np.pi), random.uniform(0, 0.9) * speed
            spin, growth = random.uniform(-0.15, 0.15), random.uniform(-zoom, zoom)
            motion = Motion(pace * np.cos(direction), pace * np.sin(direction), spin, growth)
            pose = replace(pose, motion=motion)
        shape = Shape(int(random.integers(len(CATEGORIES))), pose, _skin(random, size, colour))
        tried = replace(made, shapes=(*made.shapes, shape))
        if _least_visibility(tried) >= visibility:
            made = tried
    return made.slowed(speed) if speed else made


def portrait(*seed: int, category: int, side: int = 128, motion: Motion | None = None, frames: int = 1) -> Scene:
    """A random scene of one shape alone, with the motion given.

    Args:
        *seed: non-negative integers.
        category: a position in `CATEGORIES`.
        side: width and height in pixels.
        motion: of the shape, per frame; None for a still one.
        frames: how many; a moving shape is in the middle of its way halfway through them.
    """
    random = np.random.default_rng(seed)
    motion = motion or Motion()
    background, colour = _background(random, side, side, 0)
    size = float(random.uniform(0.22, 0.4)) * side
    centre = side / 2 + random.uniform(-0.12, 0.12, 2) * side - np.array([motion.dx, motion.dy]) * (frames - 1) / 2
    pose = Pose(
        centre[0], centre[1], size * np.exp(-motion.growth * (frames - 1) / 2), random.uniform(0, 2 * np.pi), motion
    )
    camera = Pose(side / 2, side / 2, _BACKGROUND_SCALE, random.uniform(-0.2, 0.2))
    shapes = (Shape(category, pose, _skin(random, size, colour)),)
    return Scene(side, side, shapes, background, camera, random.uniform(0, 6), (*seed, 1))


def _background(random: np.random.Generator, width: int, height: int, travel: float) -> tuple[Image.Image, Float]:
    """A texture that suffices for a camera that turns a little and travels so many pixels, and its main colour."""
    side = int((1.25 * np.hypot(width, height) + 2 * (_MARGIN + travel)) / _BACKGROUND_SCALE)
    colour = random.uniform(30, 225, 3).astype(np.float32)
    return texture(random, side, colour, grain=random.uniform(4, 12) / _BACKGROUND_SCALE), colour


def _skin(random: np.random.Generator, size: float, background: Float) -> Image.Image:
    # About as many texels as pixels, so that nothing flickers when the shape turns.
    side = int(np.clip(2 * _REACH * size, 16, 256))
    return texture(random, side, contrasting(random, background), grain=random.uniform(4, 10))


def _least_visibility(made: Scene) -> float:
    owner = made.owner()
    areas = [_cover(shape, 0, made.width, made.height)[3] for shape in made.shapes]
    seen = np.bincount(owner.ravel(), minlength=len(areas) + 1)[1:]
    return float((seen / np.maximum(areas, 1)).min())
