"""The common shape of the R-CNN family: proposals of a first stage, refined by heads over each of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from zoofleet.models.detection._checkpoints import upgrade_keys_hook
from zoofleet.models.detection._detector import Detector
from zoofleet.models.detection._selection import Limits
from zoofleet.models.detection.image_list import ImageList
from zoofleet.models.detection.transform import Detection, GeneralizedRCNNTransform, Target

__all__ = ["GeneralizedRCNN"]


class GeneralizedRCNN(Detector):
    """A detector of two stages; `Detector.predict` and `Detector.losses` say what goes in and out.

    Args:
        backbone: a network that turns images (N, C, H, W) into a dict of feature maps, the finest first, or into one
            feature map.
        rpn: the first stage, which proposes boxes; called as `RegionProposalNetwork` is.
        roi_heads: the second stage, which classifies and refines them; called as `RoIHeads` is.
        transform: makes batches of images, and brings detections back to the images' own coordinates.
    """

    def __init__(
        self, backbone: nn.Module, rpn: nn.Module, roi_heads: nn.Module, transform: GeneralizedRCNNTransform
    ) -> None:
        super().__init__(backbone, transform)
        self.register_load_state_dict_pre_hook(upgrade_keys_hook)  # type: ignore[no-untyped-call]
        self.rpn = rpn
        self.roi_heads = roi_heads

    def _detect(self, batch: ImageList, features: dict[str, Tensor]) -> list[Detection]:
        proposals, _ = self.rpn(batch, features, None)
        found: list[Detection] = self.roi_heads(features, proposals, batch.image_sizes, None)[0]
        return found

    def _detect_within(
        self, batch: ImageList, features: dict[str, Tensor], limits: Sequence[Limits]
    ) -> list[Detection]:
        proposals, _ = self.rpn(batch, features, None)
        found: list[Detection] = self.roi_heads(features, proposals, batch.image_sizes, None, limits)[0]
        return found

    def _losses(self, batch: ImageList, features: dict[str, Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        proposals, losses = self.rpn(batch, features, targets)
        _, more = self.roi_heads(features, proposals, batch.image_sizes, targets)
        return {**more, **losses}
