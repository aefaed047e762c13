"""The common shape of the R-CNN family: proposals of a first stage, refined by heads over each of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from zoofleet.models.detection._checkpoints import upgrade_keys_hook
from zoofleet.models.detection._detector import Detector
from zoofleet.models.detection.image_list import ImageList
from zoofleet.models.detection.transform import Detection, GeneralizedRCNNTransform, Target

__all__ = ["GeneralizedRCNN"]


class GeneralizedRCNN(Detector):
    """A detector of two stages. `Detector` says what goes in and out.

    Args:
        backbone: maps (N, C, H, W) to a dict of feature maps, finest first, or to one map.
        rpn: proposes boxes, as `RegionProposalNetwork` does.
        roi_heads: refines them, as `RoIHeads` does.
        transform: makes batches of images, and brings results back.
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

    def _losses(self, batch: ImageList, features: dict[str, Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        proposals, losses = self.rpn(batch, features, targets)
        _, more = self.roi_heads(features, proposals, batch.image_sizes, targets)
        return {**more, **losses}
