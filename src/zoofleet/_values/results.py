"""Results as numpy arrays and plain dataclasses; protobuf only in `to_proto` and `from_proto`.

Shapes: N objects, K keypoints of an object, H x W pixels of the original image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from zoofleet._media import flows, rle
from zoofleet._media.palette import voc_palette
from zoofleet._media.png import decode_png, encode_png
from zoofleet._wire.status import from_status
from zoofleet.errors import DataLossError, InvalidMediaError, ZoofleetError
from zoofleet.v1 import vision_pb2

Float32: TypeAlias = npt.NDArray[np.float32]
Int64: TypeAlias = npt.NDArray[np.int64]
UInt8: TypeAlias = npt.NDArray[np.uint8]
Bool: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Classification:
    """The best categories of an image or clip.

    Attributes:
        labels: int64 (top_k,), category indices, best first.
        scores: float32 (top_k,), their softmax probabilities.
        categories: their top_k names.
    """

    field: ClassVar = "classification"  # of the message Result

    labels: Int64
    scores: Float32
    categories: tuple[str, ...]

    def to_proto(self) -> vision_pb2.Classification:
        """Return the message of the same name."""
        return vision_pb2.Classification(
            labels=self.labels.tolist(), scores=self.scores.tolist(), categories=self.categories
        )

    @classmethod
    def from_proto(cls, proto: vision_pb2.Classification) -> Classification:
        """Make one from the message of the same name."""
        return cls(
            np.array(proto.labels, dtype=np.int64), np.array(proto.scores, dtype=np.float32), tuple(proto.categories)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """A label for each pixel.

    Attributes:
        label_map: uint8 (H, W), category indices.
        categories: the names of all categories of the model, by index.
    """

    field: ClassVar = "segmentation"

    label_map: UInt8
    categories: tuple[str, ...]

    def to_proto(self) -> vision_pb2.Segmentation:
        """Return the message of the same name, with the label map as a palette PNG."""
        height, width = self.label_map.shape
        image = Image.fromarray(self.label_map)
        image.putpalette(voc_palette().tobytes())
        label_map = encode_png(image)
        return vision_pb2.Segmentation(width=width, height=height, label_map=label_map, categories=self.categories)

    @classmethod
    def from_proto(cls, proto: vision_pb2.Segmentation) -> Segmentation:
        """Make one from the message of the same name.

        Raises:
            DataLossError: the label map is no palette PNG of the stated size.
        """
        return cls(decode_png(proto.label_map, proto.width, proto.height, mode="P"), tuple(proto.categories))


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The objects found in an image, best first.

    Attributes:
        image_size: (H, W) of the original image.
        boxes: float32 (N, 4), x0, y0, x1, y1 in absolute pixels of the original image.
        scores: float32 (N,), 0 to 1.
        labels: int64 (N,), category indices.
        categories: N category names.
        rles: N masks as COCO's compressed run lengths. None where the model has no masks, or found no objects.
        keypoints: float32 (N, K, 3), x, y in absolute pixels and visibility. None where the model has no keypoints.
        keypoint_scores: float32 (N, K), logits. None where the model has no keypoints.
        keypoint_names: K names. Empty where the model has no keypoints.
    """

    field: ClassVar = "detections"

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
        """The masks as bool (N, H, W), decoded anew at each access. None where `rles` is None."""
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
        """Return the message of the same name, with the masks in the given encoding."""
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
                proto.masks.add(png=encode_png(Image.fromarray(rle.decode(counts, height, width))))
            else:
                proto.masks.add(coco_rle=counts)
        if self.keypoints is not None and self.keypoint_scores is not None:
            proto.keypoints.extend(self.keypoints.ravel().tolist())
            proto.keypoint_scores.extend(self.keypoint_scores.ravel().tolist())
        return proto

    @classmethod
    def from_proto(cls, proto: vision_pb2.Detections) -> Detections:
        """Make one from the message of the same name.

        Raises:
            DataLossError: the fields do not fit together, or a mask is no PNG of the image's size.
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


def _mask_rle(mask: vision_pb2.Mask, width: int, height: int) -> bytes:
    if mask.WhichOneof("encoding") == "png":
        return rle.encode(decode_png(mask.png, width, height, mode="1"))
    return mask.coco_rle


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """The displacement of each pixel from the first image to the second.

    Attributes:
        flow: float32 (2, H, W), the horizontal, then the vertical displacement in pixels.
    """

    field: ClassVar = "flow"

    flow: Float32

    def to_proto(
        self, encoding: vision_pb2.FlowEncoding.ValueType = vision_pb2.FLOW_ENCODING_FLOAT16
    ) -> vision_pb2.Flow:
        """Return the message of the same name, in the given encoding. Values that it cannot hold are clipped."""
        _, height, width = self.flow.shape
        return vision_pb2.Flow(width=width, height=height, encoding=encoding, data=_FLOW_ENCODERS[encoding](self.flow))

    @classmethod
    def from_proto(cls, proto: vision_pb2.Flow) -> Flow:
        """Make one from the message of the same name.

        Raises:
            DataLossError: the data are not a flow of the stated size and encoding.
        """
        try:
            if proto.encoding == vision_pb2.FLOW_ENCODING_FLO:
                flow = flows.decode_flo(proto.data)
            elif proto.encoding == vision_pb2.FLOW_ENCODING_KITTI_PNG:
                flow = flows.decode_kitti_png(proto.data, proto.width, proto.height)
            elif proto.encoding == vision_pb2.FLOW_ENCODING_FLOAT16:
                flow = flows.decode_float16(proto.data, proto.width, proto.height)
            else:
                raise DataLossError(f"a flow in the encoding {proto.encoding}, which this version does not know")
        except InvalidMediaError as error:
            raise DataLossError(str(error)) from None
        if flow.shape != (2, proto.height, proto.width):
            raise DataLossError(f"a flow of shape {flow.shape} is not {proto.width} x {proto.height} pixels")
        return cls(flow)


_FLOW_ENCODERS: Final = {
    vision_pb2.FLOW_ENCODING_FLOAT16: flows.encode_float16,
    vision_pb2.FLOW_ENCODING_FLO: flows.encode_flo,
    vision_pb2.FLOW_ENCODING_KITTI_PNG: flows.encode_kitti_png,
}

Outcome: TypeAlias = Classification | Segmentation | Detections | Flow

_OUTCOMES: Final[dict[str, type[Outcome]]] = {
    cls.field: cls for cls in (Classification, Segmentation, Detections, Flow)
}


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a task gave for an item.

    Attributes:
        item_id: the item's id.
        model: the model that ran, with its weights resolved: `resnet50@IMAGENET1K_V2`.
        outcome: the result, or the error that stands in its place.
        duration: seconds from the item's arrival at the worker to its result. 0 where the item never got there.
        precision: what the model ran at: the name of a value of the enum `Precision`, such as `PRECISION_EXACT`.
    """

    item_id: str
    model: str
    outcome: Outcome | ZoofleetError
    duration: float = 0.0
    precision: str = "PRECISION_EXACT"

    @property
    def error(self) -> ZoofleetError | None:
        """The error. None where the item succeeded."""
        return self.outcome if isinstance(self.outcome, ZoofleetError) else None

    @classmethod
    def from_proto(cls, proto: vision_pb2.Result) -> Result:
        """Make one from the message of the same name.

        Raises:
            DataLossError: the message carries no outcome, or a broken one.
        """
        field = proto.WhichOneof("outcome")
        if field is None:
            raise DataLossError(f"the result of item {proto.item_id!r} carries no outcome")
        outcome: Outcome | ZoofleetError
        outcome = from_status(proto.error) if field == "error" else _OUTCOMES[field].from_proto(getattr(proto, field))
        duration = proto.duration.ToNanoseconds() / 1e9
        return cls(proto.item_id, proto.model, outcome, duration, vision_pb2.Precision.Name(proto.precision))


def categories_of(labels: Int64, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of labels. A label without a name has its index as its name."""
    return tuple(names[i] if i < len(names) else str(i) for i in labels.tolist())
