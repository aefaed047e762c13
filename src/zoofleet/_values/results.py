"""Results as numpy arrays and plain dataclasses; protobuf only in `to_proto` and `from_proto`.

Shapes: N objects, K keypoints an object, H x W pixels of the original image.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from zoofleet._media import rle
from zoofleet._media.palette import voc_palette
from zoofleet._wire.status import from_status
from zoofleet.errors import DataLossError, ZoofleetError
from zoofleet.v1 import vision_pb2

Float32: TypeAlias = npt.NDArray[np.float32]
Int64: TypeAlias = npt.NDArray[np.int64]
UInt8: TypeAlias = npt.NDArray[np.uint8]
Bool: TypeAlias = npt.NDArray[np.bool_]

_FLO_MAGIC: Final = b"PIEH"


@dataclass(frozen=True, slots=True, eq=False)
class Classification:
    """Ranked categories of an image or clip.

    Attributes:
        labels: int64 (top_k,), category indices, best first.
        scores: float32 (top_k,), softmax probabilities.
        categories: their names.
    """

    labels: Int64
    scores: Float32
    categories: tuple[str, ...]

    def to_proto(self) -> vision_pb2.Classification:
        """As the message of the same name."""
        return vision_pb2.Classification(
            labels=self.labels.tolist(), scores=self.scores.tolist(), categories=self.categories
        )

    @classmethod
    def from_proto(cls, proto: vision_pb2.Classification) -> Classification:
        """From the message of the same name."""
        return cls(
            np.array(proto.labels, dtype=np.int64), np.array(proto.scores, dtype=np.float32), tuple(proto.categories)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """A label for each pixel.

    Attributes:
        label_map: uint8 (H, W), category indices.
        categories: all categories of the model by index.
    """

    label_map: UInt8
    categories: tuple[str, ...]

    def to_proto(self) -> vision_pb2.Segmentation:
        """As the message of the same name; the label map as a palette PNG."""
        height, width = self.label_map.shape
        image = Image.fromarray(self.label_map)
        image.putpalette(voc_palette().tobytes())
        return vision_pb2.Segmentation(width=width, height=height, label_map=_to_png(image), categories=self.categories)

    @classmethod
    def from_proto(cls, proto: vision_pb2.Segmentation) -> Segmentation:
        """From the message of the same name.

        Raises:
            DataLossError: the label map is no palette PNG of the stated size.
        """
        label_map = _from_png(proto.label_map, proto.width, proto.height, mode="P")
        return cls(label_map, tuple(proto.categories))


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Found objects, best first.

    Attributes:
        image_size: (H, W) of the original image.
        boxes: float32 (N, 4), x0, y0, x1, y1 in absolute pixels of the original image.
        scores: float32 (N,), 0 to 1.
        labels: int64 (N,), category indices.
        categories: N category names.
        rles: COCO compressed run lengths of N masks; None where the model has no masks.
        keypoints: float32 (N, K, 3), x, y in absolute pixels and visibility; None where the model has none.
        keypoint_scores: float32 (N, K), logits; None where the model has none.
        keypoint_names: K names, empty where the model has none.
    """

    image_size: tuple[int, int]
    boxes: Float32
    scores: Float32
    labels: Int64
    categories: tuple[str, ...]
    rles: tuple[bytes, ...] | None = None
    keypoints: Float32 | None = None
    keypoint_scores: Float32 | None = None
    keypoint_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def masks(self) -> Bool | None:
        """bool (N, H, W), decoded anew at each call; None where the model has no masks."""
        if self.rles is None:
            return None
        height, width = self.image_size
        masks = np.zeros((len(self.rles), height, width), dtype=np.bool_)
        for mask, counts in zip(masks, self.rles, strict=True):
            mask[:] = rle.decode(counts, height, width)
        return masks

    def to_proto(
        self, mask_encoding: vision_pb2.MaskEncoding.ValueType = vision_pb2.MASK_ENCODING_COCO_RLE
    ) -> vision_pb2.Detections:
        """As the message of the same name, with masks in the given encoding."""
        height, width = self.image_size
        proto = vision_pb2.Detections(
            width=width,
            height=height,
            boxes=self.boxes.ravel().tolist(),
            scores=self.scores.tolist(),
            labels=self.labels.tolist(),
            categories=self.categories,
            keypoint_names=self.keypoint_names,
        )
        for counts in self.rles or ():
            if mask_encoding == vision_pb2.MASK_ENCODING_PNG:
                proto.masks.add(png=_to_png(Image.fromarray(rle.decode(counts, height, width))))
            else:
                proto.masks.add(coco_rle=counts)
        if self.keypoints is not None and self.keypoint_scores is not None:
            proto.keypoints.extend(self.keypoints.ravel().tolist())
            proto.keypoint_scores.extend(self.keypoint_scores.ravel().tolist())
        return proto

    @classmethod
    def from_proto(cls, proto: vision_pb2.Detections) -> Detections:
        """From the message of the same name.

        Raises:
            DataLossError: its fields do not fit together.
        """
        count, keypoint_count = len(proto.scores), len(proto.keypoint_names)
        lengths = (len(proto.boxes), len(proto.labels), len(proto.keypoints), len(proto.keypoint_scores))
        if lengths != (4 * count, count, 3 * keypoint_count * count, keypoint_count * count):
            raise DataLossError(f"{count} detections come with boxes, labels, keypoints, scores of lengths {lengths}")
        has_masks = len(proto.masks) > 0
        if has_masks and len(proto.masks) != count:
            raise DataLossError(f"{count} detections come with {len(proto.masks)} masks")
        shape = (count, keypoint_count)
        keypoint_scores = np.array(proto.keypoint_scores, dtype=np.float32).reshape(shape)
        return cls(
            image_size=(proto.height, proto.width),
            boxes=np.array(proto.boxes, dtype=np.float32).reshape(count, 4),
            scores=np.array(proto.scores, dtype=np.float32),
            labels=np.array(proto.labels, dtype=np.int64),
            categories=tuple(proto.categories),
            rles=tuple(_mask_rle(m, proto.width, proto.height) for m in proto.masks) if has_masks else None,
            keypoints=np.array(proto.keypoints, dtype=np.float32).reshape(*shape, 3) if keypoint_count else None,
            keypoint_scores=keypoint_scores if keypoint_count else None,
            keypoint_names=tuple(proto.keypoint_names),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """The displacement of each pixel from the first image to the second.

    Attributes:
        flow: float32 (2, H, W), horizontal then vertical, in pixels.
    """

    flow: Float32

    def to_proto(
        self, encoding: vision_pb2.FlowEncoding.ValueType = vision_pb2.FLOW_ENCODING_FLOAT16
    ) -> vision_pb2.Flow:
        """As the message of the same name; values that the encoding cannot hold are clipped."""
        _, height, width = self.flow.shape
        interleaved = self.flow.transpose(1, 2, 0)  # (H, W, 2)
        if encoding == vision_pb2.FLOW_ENCODING_FLO:
            data = _FLO_MAGIC + struct.pack("<ii", width, height) + interleaved.astype("<f4").tobytes()
        elif encoding == vision_pb2.FLOW_ENCODING_KITTI_PNG:
            data = _to_kitti_png(interleaved)
        else:
            half = np.finfo(np.float16)
            data = interleaved.clip(half.min, half.max).astype("<f2").tobytes()
        return vision_pb2.Flow(width=width, height=height, encoding=encoding, data=data)

    @classmethod
    def from_proto(cls, proto: vision_pb2.Flow) -> Flow:
        """From the message of the same name.

        Raises:
            DataLossError: the data is not a field of the stated size and encoding.
        """
        shape = (proto.height, proto.width, 2)
        size = proto.height * proto.width * 2
        if proto.encoding == vision_pb2.FLOW_ENCODING_FLOAT16 and len(proto.data) == 2 * size:
            field = np.frombuffer(proto.data, "<f2").reshape(shape)
        elif proto.encoding == vision_pb2.FLOW_ENCODING_FLO and len(proto.data) == 12 + 4 * size:
            field = np.frombuffer(proto.data, "<f4", offset=12).reshape(shape)
        elif proto.encoding == vision_pb2.FLOW_ENCODING_KITTI_PNG:
            field = _from_kitti_png(proto.data, proto.width, proto.height)
        else:
            raise DataLossError(f"a flow of {len(proto.data)} bytes is not {proto.width} x {proto.height} pixels")
        return cls(np.ascontiguousarray(field.transpose(2, 0, 1), dtype=np.float32))  # (2, H, W)


Outcome: TypeAlias = Classification | Segmentation | Detections | Flow


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a task gave for an item.

    Attributes:
        item_id: the item's id.
        model: the model that ran, weights resolved: `resnet50@IMAGENET1K_V2`.
        outcome: the result, or the error that stands in its place.
        duration: seconds from the item's arrival at the worker to its result; 0 where it never got there.
        precision: what it ran at, a name of the enum `Precision`.
    """

    item_id: str
    model: str
    outcome: Outcome | ZoofleetError
    duration: float = 0.0
    precision: str = "PRECISION_EXACT"

    @property
    def error(self) -> ZoofleetError | None:
        """The error, None where the item succeeded."""
        return self.outcome if isinstance(self.outcome, ZoofleetError) else None

    @classmethod
    def from_proto(cls, proto: vision_pb2.Result) -> Result:
        """From the message of the same name.

        Raises:
            DataLossError: it carries no outcome, or a broken one.
        """
        which = proto.WhichOneof("outcome")
        outcome: Outcome | ZoofleetError
        if which == "error":
            outcome = from_status(proto.error)
        elif which == "classification":
            outcome = Classification.from_proto(proto.classification)
        elif which == "segmentation":
            outcome = Segmentation.from_proto(proto.segmentation)
        elif which == "detections":
            outcome = Detections.from_proto(proto.detections)
        elif which == "flow":
            outcome = Flow.from_proto(proto.flow)
        else:
            raise DataLossError(f"the result of item {proto.item_id!r} carries no outcome")
        duration = proto.duration.ToNanoseconds() / 1e9
        return cls(proto.item_id, proto.model, outcome, duration, vision_pb2.Precision.Name(proto.precision))


def _mask_rle(mask: vision_pb2.Mask, width: int, height: int) -> bytes:
    if mask.WhichOneof("encoding") == "png":
        return rle.encode(_from_png(mask.png, width, height, mode="1"))
    return mask.coco_rle


def _to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # level 9 takes ten times as long for a fifth less
    return buffer.getvalue()


def _from_png(data: bytes, width: int, height: int, mode: str) -> UInt8:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size != (width, height) or image.mode != mode:
                raise DataLossError(f"a {image.mode} PNG of size {image.size} is not {mode} of size {(width, height)}")
            return np.array(image).astype(np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataLossError(f"not a PNG: {error}") from None


def categories_of(labels: Int64, names: Sequence[str]) -> tuple[str, ...]:
    """Names of labels; an index beyond the names is its own name."""
    return tuple(names[i] if i < len(names) else str(i) for i in labels.tolist())


_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_KITTI_MAX: Final = 65535.0


def _to_kitti_png(interleaved: Float32) -> bytes:
    """KITTI's 16-bit RGB PNG of a (H, W, 2) field: 64 steps a pixel from 2^15, and 1 for valid (KITTI 2015 devkit).

    Written here since Pillow has no 16-bit RGB.
    """
    height, width, _ = interleaved.shape
    field = np.ones((height, width, 3), dtype=">u2")
    field[..., :2] = np.rint(interleaved * 64.0 + 32768.0).clip(0, _KITTI_MAX)
    rows = np.zeros((height, 1 + 6 * width), dtype=np.uint8)  # each row begins with its filter: 0, none
    rows[:, 1:] = field.reshape(height, -1).view(np.uint8)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return _PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def _from_kitti_png(data: bytes, width: int, height: int) -> Float32:
    """The (H, W, 2) field of a PNG that `_to_kitti_png` wrote: one IDAT, rows without filters."""
    row_bytes = 1 + 6 * width
    start = len(_PNG_SIGNATURE) + 25  # past the signature and IHDR
    try:
        (length,) = struct.unpack_from(">I", data, start)
        inflater = zlib.decompressobj()
        raw = inflater.decompress(data[start + 8 : start + 8 + length], height * row_bytes + 1)
        rows = np.frombuffer(raw, dtype=np.uint8).reshape(height, row_bytes)
    except (struct.error, zlib.error, ValueError) as error:
        raise DataLossError(f"not a KITTI flow PNG of {width} x {height} pixels: {error}") from None
    field = np.ascontiguousarray(rows[:, 1:]).view(">u2").reshape(height, width, 3)
    return (field[..., :2].astype(np.float32) - 32768.0) / 64.0
