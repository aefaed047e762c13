"""Images, targets and small models that the tests of detectors share."""

from __future__ import annotations

from typing import Any

import torch
from tests.models import seeded
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from zoofleet.models import detection, get_model, list_models
from zoofleet.models.detection import Detector
from zoofleet.models.detection.generalized_rcnn import GeneralizedRCNN

SIZES = ((240, 320), (200, 180))
KEYPOINTS = 17

THREADS = 2
"""Those that the facts about losses were computed by, with AVX-512.

Which proposals survive suppression, and their order, hangs on rounding: a noise of 1e-7 in the features, as another CPU
or number of threads brings it, makes the sampler draw other background.
"""

NAMES = tuple(list_models(detection))


def images() -> list[Tensor]:
    """The two images of the facts, of different sizes."""
    return [
        torch.from_numpy(seeded.image(h, w, seed)).permute(2, 0, 1).float() / 255
        for (h, w), seed in zip(SIZES, (7, 8), strict=True)
    ]


def targets(*, second_image_empty: bool = False) -> list[dict[str, Tensor]]:
    """Two objects an image, as the facts about losses describe them."""
    made = [_target(i) for i in range(len(SIZES))]
    if second_image_empty:
        made[1] = {key: value[:0] for key, value in made[1].items()}
    return made


def _target(i: int) -> dict[str, Tensor]:
    boxes = torch.tensor([[10.0 + 5 * i, 20, 110, 130], [60, 40.0 + 5 * i, 170, 160]])
    masks = torch.zeros(len(boxes), *SIZES[i], dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = 1
    k = torch.arange(KEYPOINTS)
    across, down = (k + 1) / 18, ((5 * k) % KEYPOINTS + 1) / 18
    x0, y0, x1, y1 = (side[:, None] for side in boxes.unbind(1))
    places = (x0 + (x1 - x0) * across, y0 + (y1 - y0) * down)
    return {
        "boxes": boxes,
        "labels": torch.ones(len(boxes), dtype=torch.int64),
        "masks": masks,
        "keypoints": torch.stack((*places, torch.ones_like(places[0])), dim=-1),
    }


def small(name: str, **options: Any) -> Detector:
    """`build`, but quick: small images, and few regions to learn from."""
    if not name.startswith("ssd"):
        options = {"min_size": 128} | options
    if "rcnn" in name:
        options = {"box_batch_size_per_image": 16, "rpn_post_nms_top_n_test": 100} | options
    return build(name, **options)


def build(name: str, **options: Any) -> Detector:
    """A detector with the weights of `seeded.fill`, in evaluation mode."""
    model = get_model(name, weights=None, weights_backbone=None, **options)
    assert isinstance(model, Detector)
    seeded.fill(model.state_dict())
    return model.eval()


@torch.no_grad()
def losses(name: str) -> dict[str, dict[str, float]]:
    """The training losses of a detector by name, in each case of the facts, with its batch norms in evaluation mode."""
    model = build(name)
    model.training = True  # but not its parts
    model.backbone = Once(model.backbone)
    single: Any = model.rpn if isinstance(model, GeneralizedRCNN) else model
    single.head = Once(single.head)
    cases = {"two_boxes": targets(), "second_image_empty": targets(second_image_empty=True)}
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        return {case: _losses(model, given) for case, given in cases.items()}
    finally:
        torch.set_num_threads(before)


def _losses(model: Detector, given: list[dict[str, Tensor]]) -> dict[str, float]:
    torch.manual_seed(1)  # the samplers'
    return {key: loss.item() for key, loss in model.losses(images(), given).items()}


class Once(nn.Module):
    """Computes a part's result once: it is nearly all of the work, and sees the same images again and again."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.known: tuple[list[Tensor], Any] | None = None

    def forward(self, x: Any) -> Any:
        given = pytree.tree_leaves(x)
        if self.known is None or not all(map(torch.equal, self.known[0], given)):
            self.known = given, self.part(x)
        return self.known[1]
