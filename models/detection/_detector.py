"""What all detectors share: images and targets in, detections in each image's own coordinates out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from zoofleet.models.detection._checks import check_images, check_targets
from zoofleet.models.detection.image_list import ImageList
from zoofleet.models.detection.transform import Detection, GeneralizedRCNNTransform, Target

__all__ = ["Detector"]


class Detector(nn.Module):
    """A detector of several families' common shape: transform, backbone, and heads that a subclass adds.

    Args:
        backbone: maps (N, C, H, W) to a dict of feature maps, finest first, or to one map.
        transform: makes batches of images, and brings results back.
    """

    def __init__(self, backbone: nn.Module, transform: GeneralizedRCNNTransform) -> None:
        super().__init__()
        self.backbone = backbone
        self.transform = transform

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> list[Detection] | dict[str, Tensor]:
        """`losses(images, targets)` in training mode, `predict(images)` in evaluation mode."""
        return self.losses(images, targets) if self.training else self.predict(images)

    def predict(self, images: Sequence[Tensor], *, paste_masks: bool = True) -> list[Detection]:
        """Detect objects.

        Args:
            images: float tensors (C, H, W) in [0, 1], of any sizes, on the model's device.
            paste_masks: give masks in the image; False gives them in their boxes, which takes far less memory.

        Returns:
            A dict for each image, by descending score:

            - boxes: float (N, 4), x0, y0, x1, y1 in pixels of the image as it was given.
            - labels: int64 (N,) in [0, num_classes); 0 is background, which only an untrained FCOS or RetinaNet finds.
            - scores: float (N,) in [0, 1].
            - masks: float (N, 1, H, W), probabilities; (N, 1, 28, 28) over the box without `paste_masks`, which
              `paste_masks(masks, boxes, (H, W))` of this package brings into the image. Mask R-CNN only.
            - keypoints: float (N, K, 3), x, y and visibility, which is always 1. Keypoint R-CNN only.
            - keypoints_scores: float (N, K), logits. Keypoint R-CNN only.

        Raises:
            InvalidArgumentError: the images are not what they must be.
        """
        check_images(images, len(self.transform.image_mean))
        batch, _ = self.transform(images)
        detections = self._detect(batch, self._features(batch))
        originals = [(image.shape[-2], image.shape[-1]) for image in images]
        return self.transform.postprocess(detections, batch.image_sizes, originals, paste_masks=paste_masks)

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target] | None) -> dict[str, Tensor]:
        """Training losses, to be summed.

        Args:
            images: as `predict` takes them.
            targets: a dict for each image:

                - boxes: float (N, 4), x0, y0, x1, y1 in pixels, x1 > x0 and y1 > y0. N may be 0.
                - labels: int64 (N,) in [0, num_classes).
                - masks: uint8 or bool (N, H, W). Mask R-CNN only.
                - keypoints: float (N, K, 3), x, y and visibility, 0 for points to ignore. Keypoint R-CNN only.

        Returns:
            Scalars by name.

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
        """Demand what a family needs besides boxes and labels, and the range of the labels."""

    @abstractmethod
    def _detect(self, batch: ImageList, features: dict[str, Tensor]) -> list[Detection]:
        """Detections in coordinates of the batch."""

    @abstractmethod
    def _losses(self, batch: ImageList, features: dict[str, Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Losses against targets in coordinates of the batch."""
