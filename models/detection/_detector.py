"""What all detectors share: images and targets go in, detections in each image's own coordinates come out.

Letters in shapes: N objects of an image or images of a batch, C channels, H and W pixels, K keypoints of an object.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.detection._inputs import check_images, check_targets
from zoofleet.models.detection._selection import Limits, within
from zoofleet.models.detection.image_list import ImageList
from zoofleet.models.detection.transform import Detection, GeneralizedRCNNTransform, Target

__all__ = ["Detector"]


class Detector(nn.Module):
    """The base class of all detectors: a transform, a backbone, and heads that a subclass adds.

    Args:
        backbone: a network that turns images (N, C, H, W) into a dict of feature maps, the finest first, or into one
            feature map.
        transform: makes batches of images, and brings detections back to the images' own coordinates.
    """

    def __init__(self, backbone: nn.Module, transform: GeneralizedRCNNTransform) -> None:
        super().__init__()
        self.backbone = backbone
        self.transform = transform

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> list[Detection] | dict[str, Tensor]:
        """Return `losses(images, targets)` in training mode, and `predict(images)` in evaluation mode.

        Args:
            images: float tensors (C, H, W) in [0, 1], of any sizes, on the model's device.
            targets: what is to be found in each image, for `losses`; ignored in evaluation mode.

        Raises:
            InvalidArgumentError: images or targets are not what they must be.
        """
        return self.losses(images, targets) if self.training else self.predict(images)

    def predict(
        self, images: Sequence[Tensor], *, paste_masks: bool = True, limits: Sequence[Limits] | None = None
    ) -> list[Detection]:
        """Detect objects.

        Args:
            images: float tensors (C, H, W) in [0, 1], of any sizes, on the model's device.
            paste_masks: whether masks cover the image; without, they cover their boxes, which takes far less memory.
            limits: which of its detections each image needs; None for all. Masks and keypoints are computed for these
                alone. Their last bits may then differ from those among all detections, since a library may add up
                matrices of another size in another order; boxes, scores and labels do not.

        Returns:
            A dict for each image, with the N objects found in it by descending score:

            - boxes: float (N, 4), x0, y0, x1, y1 in pixels of the image as it was given.
            - labels: int64 (N,) in [0, num_classes); 0 is background, which only an untrained FCOS or RetinaNet finds.
            - scores: float (N,) in [0, 1].
            - masks: float (N, 1, H, W), probabilities in [0, 1]; (N, 1, 28, 28) over the box without `paste_masks`. The
              function `paste_masks(masks, boxes, (H, W))` of this package brings these into the image. Mask R-CNN only.
            - keypoints: float (N, K, 3), x and y in pixels, and visibility, which is always 1. Keypoint R-CNN only.
            - keypoints_scores: float (N, K), logits. Keypoint R-CNN only.

        Raises:
            InvalidArgumentError: the images are not what they must be, or there are not as many limits as images.
        """
        check_images(images, len(self.transform.image_mean))
        if limits is not None and len(limits) != len(images):
            raise InvalidArgumentError(f"limits for {len(limits)} images; there are {len(images)}")
        batch, _ = self.transform(images)
        features = self._features(batch)
        detections = self._detect(batch, features) if limits is None else self._detect_within(batch, features, limits)
        originals = [(image.shape[-2], image.shape[-1]) for image in images]
        return self.transform.postprocess(detections, batch.image_sizes, originals, paste_masks=paste_masks)

    def batch_key(self, height: int, width: int) -> tuple[int, ...]:
        """Return what decides with which other images an image may share a batch without a change of its detections.

        Images of equal keys are padded to the same size, whichever of them are together.

        Args:
            height: rows of the image in pixels.
            width: columns of the image in pixels.
        """
        (resized, _), padded = self.transform.sizes(height, width)
        # `MultiScaleRoIAlign` rounds its scales to powers of two by the greatest height before padding. That of a strip
        # may be so far below the padded one that it is rounded to another power than a higher strip's.
        return *padded, round(math.log2(padded[0] / resized))

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target] | None) -> dict[str, Tensor]:
        """Compute the training losses, whose sum is to be minimised.

        Args:
            images: float tensors (C, H, W) in [0, 1], of any sizes, on the model's device.
            targets: a dict for each image, with its N objects:

                - boxes: float (N, 4), x0, y0, x1, y1 in pixels, x1 > x0 and y1 > y0. N may be 0.
                - labels: int64 (N,) in [0, num_classes).
                - masks: uint8 or bool (N, H, W). Mask R-CNN only.
                - keypoints: float (N, K, 3), x, y and visibility, 0 for points to ignore. Keypoint R-CNN only.

        Returns:
            Scalar losses by name.

        Raises:
            InvalidArgumentError: images or targets are not what they must be.
        """
        check_images(images, len(self.transform.image_mean))
        checked = check_targets(images, targets)
        self._check_targets(checked)
        batch, resized = self.transform(images, checked)
        return self._losses(batch, self._features(batch), resized)

    def _features(self, batch: ImageList) -> dict[str, Tensor]:
        features: dict[str, Tensor] | Tensor = self.backbone(batch.tensors)
        return {"0": features} if isinstance(features, Tensor) else features

    def _check_targets(self, targets: Sequence[Target]) -> None:
        """Check that targets have what a family learns from besides boxes and labels; most learn from nothing else."""

    @abstractmethod
    def _detect(self, batch: ImageList, features: dict[str, Tensor]) -> list[Detection]:
        """Return what is found in each image, in coordinates of the batch."""

    def _detect_within(
        self, batch: ImageList, features: dict[str, Tensor], limits: Sequence[Limits]
    ) -> list[Detection]:
        """Return what `_detect` does, but only the detections that each image needs."""
        return within(self._detect(batch, features), limits)

    @abstractmethod
    def _losses(self, batch: ImageList, features: dict[str, Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return the losses by name; boxes, masks and keypoints of the targets are in coordinates of the batch."""
