"""Anchors, box codes, matching, sampling, resizing, masks and keypoints on their own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.detection import AnchorGenerator, DefaultBoxGenerator, paste_masks
from zoofleet.models.detection._boxes import (
    BELOW_LOW,
    BETWEEN,
    BoxCoder,
    LinearBoxCoder,
    claim_best_anchors,
    keep_best_anchors,
    match,
    sample,
)
from zoofleet.models.detection._keypoints import keypoint_loss, locate_keypoints
from zoofleet.models.detection._masks import mask_loss
from zoofleet.models.detection._selection import Candidates, best_of_classes, best_of_maps, choose
from zoofleet.models.detection.fcos import FCOS, FCOSHead
from zoofleet.models.detection.image_list import ImageList
from zoofleet.models.detection.transform import GeneralizedRCNNTransform
from zoofleet.models.ops import clip_boxes_to_image, nms, remove_small_boxes


def _boxes(n: int, size: float = 100) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    start = torch.rand(n, 2, generator=generator) * size
    return torch.cat((start, start + 1 + torch.rand(n, 2, generator=generator) * size), dim=1)


def _batch(height: int, width: int) -> ImageList:
    return ImageList(torch.zeros(2, 3, height, width), [(height, width)] * 2)


def test_anchors_are_centred_on_corners_of_cells() -> None:
    anchors = AnchorGenerator(sizes=((32,), (64,)), aspect_ratios=((0.5, 1.0, 2.0), (1.0,)))
    assert anchors.num_anchors_per_location() == [3, 1]
    made, other = anchors(_batch(64, 96), [torch.zeros(1, 8, 4, 6), torch.zeros(1, 8, 2, 3)])
    assert other is made
    assert made.shape == (4 * 6 * 3 + 2 * 3, 4)
    # The areas are 32 squared but for rounding; the first cell, then its right neighbour 16 pixels on.
    assert made[:3].tolist() == [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    assert made[4].tolist() == [0, -16, 32, 16]
    assert made[-1].tolist() == [32, 0, 96, 64]  # last cell of the second map, 2 * 32 to the right and 32 down
    with pytest.raises(InvalidArgumentError, match="2 feature maps, the backbone gave 1"):
        anchors(_batch(64, 96), [torch.zeros(1, 8, 4, 6)])
    with pytest.raises(InvalidArgumentError, match="got 1 and 2"):
        AnchorGenerator(sizes=((32,),), aspect_ratios=((1.0,), (1.0,)))


def test_default_boxes_are_centred_in_cells() -> None:
    boxes = DefaultBoxGenerator([[2], [2, 3]], min_ratio=0.2, max_ratio=0.9)
    assert boxes.num_anchors_per_location() == [4, 6]
    made, _ = boxes(_batch(100, 200), [torch.zeros(1, 8, 2, 2), torch.zeros(1, 8, 1, 1)])
    assert made.shape == (2 * 2 * 4 + 6, 4)
    between, wide = 0.5 * math.sqrt(0.2 * 0.9), 0.1 * math.sqrt(2)
    expected = [
        [0.25 - 0.1, 0.25 - 0.1, 0.25 + 0.1, 0.25 + 0.1],
        [0.25 - between, 0.25 - between, 0.25 + between, 0.25 + between],
        [0.25 - wide, 0.25 - wide / 2, 0.25 + wide, 0.25 + wide / 2],
        [0.25 - wide / 2, 0.25 - wide, 0.25 + wide / 2, 0.25 + wide],
    ]
    torch.testing.assert_close(made[:4], torch.tensor(expected) * torch.tensor((200.0, 100, 200, 100)))
    assert (made[-6:, 2] - made[-6:, 0]).max() == 200  # 0.9 * sqrt(3) is clipped to the image
    fixed = DefaultBoxGenerator([[2]], scales=[0.1, 0.2], steps=[40], clip=False)
    assert fixed(_batch(100, 200), [torch.zeros(1, 8, 2, 2)])[0][0].tolist() == pytest.approx([10, 15, 30, 25])
    with pytest.raises(InvalidArgumentError, match="steps needs 1"):
        DefaultBoxGenerator([[2]], steps=[8, 16])
    with pytest.raises(InvalidArgumentError, match="scales needs 2"):
        DefaultBoxGenerator([[2]], scales=[0.1])


def test_codes_decode_to_the_boxes_they_encode() -> None:
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    boxes, anchors = _boxes(50), _boxes(51)[:50]
    torch.testing.assert_close(coder.decode(coder.encode(boxes, anchors), anchors), boxes, rtol=1e-4, atol=1e-3)
    one = BoxCoder().encode(torch.tensor([[2.0, 0, 6, 2]]), torch.tensor([[0.0, 0, 2, 2]]))
    torch.testing.assert_close(one, torch.tensor([[1.5, 0, math.log(2), 0]]))


def test_codes_of_an_untrained_network_decode_to_finite_boxes() -> None:
    grown = BoxCoder().decode(torch.full((1, 4), 1e4), torch.tensor([[0.0, 0, 16, 16]]))
    assert (grown[:, 2:] - grown[:, :2]).tolist() == [[pytest.approx(1000), pytest.approx(1000)]]


def test_distances_decode_to_the_boxes_they_encode() -> None:
    boxes, anchors = _boxes(50), _boxes(51)[:50]
    coder = LinearBoxCoder()
    torch.testing.assert_close(coder.decode(coder.encode(boxes, anchors), anchors), boxes, rtol=1e-4, atol=1e-3)
    one = coder.encode(torch.tensor([[2.0, 0, 8, 2]]), torch.tensor([[0.0, 0, 2, 4]]))
    assert one.tolist() == [[-0.5, 0.5, 3.5, 0.0]]


def test_matching() -> None:
    iou = torch.tensor([[0.1, 0.5, 0.75, 0.3, 0.0], [0.2, 0.4, 0.7, 0.31, 0.2]])
    matches = match(iou, 0.3, 0.7)
    assert matches.tolist() == [BELOW_LOW, BETWEEN, 0, BETWEEN, BELOW_LOW]
    # The second truth's best anchor is the first truth's too, and stays with it; one truth's ties are all kept.
    assert keep_best_anchors(matches, iou).tolist() == matches.tolist()
    ties = torch.tensor([[0.1, 0.2, 0.2], [0.0, 0.1, 0.4]])
    assert keep_best_anchors(match(ties, 0.3, 0.7), ties).tolist() == [BELOW_LOW, 0, 1]
    # A claim takes the anchor away from the other truth.
    assert claim_best_anchors(match(iou, 0.5, 0.5), iou).tolist() == [BELOW_LOW, 0, 1, BELOW_LOW, BELOW_LOW]
    none = torch.zeros(0, 3)
    assert match(none, 0.3, 0.7).tolist() == [BELOW_LOW] * 3
    assert keep_best_anchors(match(none, 0.3, 0.7), none).tolist() == [BELOW_LOW] * 3
    assert claim_best_anchors(match(none, 0.3, 0.7), none).tolist() == [BELOW_LOW] * 3


def test_sampling_draws_positives_then_negatives() -> None:
    labels = torch.tensor([0, 1, -1, 0, 2, 0, 0, 3, -1, 0])
    torch.manual_seed(5)
    first, second = torch.randperm(3), torch.randperm(5)
    torch.manual_seed(5)
    positive, negative = sample(labels, 6, 1 / 3)
    assert positive.nonzero().flatten().tolist() == sorted(torch.tensor([1, 4, 7])[first[:2]].tolist())
    assert negative.nonzero().flatten().tolist() == sorted(torch.tensor([0, 3, 5, 6, 9])[second[:4]].tolist())


@pytest.mark.parametrize(("labels", "counts"), [([1, 1, 1, 0], (2, 1)), ([0, 0, 0, 0, 0], (0, 4)), ([], (0, 0))])
def test_sampling_takes_what_there_is(labels: list[int], counts: tuple[int, int]) -> None:
    positive, negative = sample(torch.tensor(labels, dtype=torch.int64), 4, 0.5)
    assert (int(positive.sum()), int(negative.sum())) == counts


def test_batches_are_resized_padded_and_restored() -> None:
    transform = GeneralizedRCNNTransform((10, 60), 90, (0.5,) * 3, (0.25,) * 3)
    batch, _ = transform([torch.ones(3, 120, 160), torch.ones(3, 30, 100)])
    assert batch.image_sizes == [(60, 80), (27, 90)]  # the longer side of the second would be 200
    assert batch.tensors.shape == (2, 3, 64, 96)
    torch.testing.assert_close(batch.tensors[1, :, :27, :90], torch.full((3, 27, 90), 2.0))
    assert (batch.tensors[1, :, 27:] == 0).all() and (batch.tensors[1, :, :, 90:] == 0).all()
    found = {"boxes": torch.tensor([[0.0, 0, 80, 60]]), "keypoints": torch.tensor([[[40.0, 30, 1]]])}
    other = {"boxes": torch.tensor([[0.0, 0, 90, 27]]), "keypoints": torch.zeros(0, 1, 3)}
    first, second = transform.postprocess([found, other], batch.image_sizes, [(120, 160), (30, 100)])
    assert first["boxes"].tolist() == [[0, 0, 160, 120]] and first["keypoints"].tolist() == [[[80, 60, 1]]]
    torch.testing.assert_close(second["boxes"], torch.tensor([[0.0, 0, 100, 30]]))


def test_training_draws_a_size_for_each_image_and_resizes_targets() -> None:
    transform = GeneralizedRCNNTransform((20, 40), 1000, (0.5,) * 3, (0.25,) * 3)
    image, mask = torch.ones(3, 80, 160), torch.zeros(1, 80, 160, dtype=torch.bool)
    mask[:, 20:60, 40:120] = True
    target = {
        "boxes": torch.tensor([[40.0, 20, 120, 60]], dtype=torch.float64),
        "labels": torch.ones(1, dtype=torch.int64),
        "masks": mask,
        "keypoints": torch.tensor([[[80.0, 40, 2]]]),
    }
    torch.manual_seed(0)
    batch, targets = transform([image] * 8, [target] * 8)
    assert set(batch.image_sizes) == {(20, 40), (40, 80)}
    for (height, _), resized in zip(batch.image_sizes, targets, strict=True):
        half = height / 80
        assert resized["boxes"].tolist() == [[40 * half, 20 * half, 120 * half, 60 * half]]
        assert resized["boxes"].dtype == torch.float32
        assert resized["keypoints"].tolist() == [[[80 * half, 40 * half, 2]]]
        assert resized["masks"].dtype == torch.uint8 and resized["masks"].sum() == mask.sum() * half * half


def _paste_one(mask: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask R-CNN's pasting in its plain form: pad, resize, copy what is inside."""
    padded = torch.nn.functional.pad(mask, (1, 1, 1, 1))
    scale = padded.shape[-1] / mask.shape[-1]
    center, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * scale
    (x0, y0), (x1, y1) = (center - half).long().tolist(), (center + half).long().tolist()
    shape = (max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1))
    resized = torch.nn.functional.interpolate(padded[None], shape, mode="bilinear", align_corners=False)[0, 0]
    image = torch.zeros(size)
    for row, y in enumerate(range(y0, y0 + shape[0])):
        for column, x in enumerate(range(x0, x0 + shape[1])):
            if 0 <= y < size[0] and 0 <= x < size[1]:
                image[y, x] = resized[row, column]
    return image


def test_masks_are_pasted_as_by_resizing_each() -> None:
    size = (40, 60)
    boxes = torch.tensor(
        [
            [5.0, 6, 30, 31],
            [0, 0, 60, 40],
            [10.3, 12.7, 10.9, 13.1],  # less than a pixel
            [-20, -10, 25, 15],  # over the edge
            [50.5, 30.5, 90, 70],
            [58.9, 38.9, 60, 40],
        ]
    )
    masks = torch.rand(len(boxes), 1, 7, 7, generator=torch.Generator().manual_seed(0))
    pasted = paste_masks(masks, boxes, size)
    assert pasted.shape == (len(boxes), 1, *size)
    for one, mask, box in zip(pasted, masks, boxes, strict=True):
        torch.testing.assert_close(one[0], _paste_one(mask, box, size), rtol=1e-4, atol=1e-6)
    assert paste_masks(masks[:0], boxes[:0], size).shape == (0, 1, *size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(paste_masks(masks, boxes, size), pasted)


def test_mask_loss_is_small_for_the_right_mask_of_the_right_class() -> None:
    masks = torch.zeros(2, 20, 20, dtype=torch.uint8)
    masks[1, :, 10:] = 1
    # The first box lies where the second object is, the other beside it.
    boxes = [torch.tensor([[12.0, 2, 19, 18], [1, 2, 8, 18]]), torch.zeros(0, 4)]
    labels, truths = [torch.tensor([1, 2]), torch.zeros(0).long()], [torch.tensor([1, 1]), torch.zeros(0).long()]
    logits = torch.zeros(2, 3, 4, 4)
    logits[0, 1], logits[1, 2] = 20.0, -20.0
    all_masks = [masks, torch.zeros(0, 9, 9, dtype=torch.uint8)]
    assert mask_loss(logits, boxes, labels, truths, all_masks) < 1e-6
    assert mask_loss(-logits, boxes, labels, truths, all_masks) > 10
    assert mask_loss(logits[:0], boxes[1:], labels[1:], truths[1:], all_masks[1:]) == 0


def test_keypoints_are_found_where_they_peak() -> None:
    boxes = torch.tensor([[10.0, 20, 66, 76], [100, 50, 128, 162]])
    heatmaps = torch.zeros(2, 3, 56, 56)
    heatmaps[0, 0, 5, 40] = heatmaps[0, 1, 55, 0] = heatmaps[1, 2, 28, 14] = 7.0
    points, scores = locate_keypoints(heatmaps, boxes)
    assert points[0, 0].tolist() == [50.5, 25.5, 1] and scores[0, 0] == 7  # a cell is a pixel
    assert points[0, 1].tolist() == [10.5, 75.5, 1]
    assert points[1, 2, :2].tolist() == pytest.approx([100 + 14.5 / 2, 50 + 28.5 * 2], abs=1)
    empty, none = locate_keypoints(heatmaps[:0], boxes[:0])
    assert empty.shape == (0, 3, 3) and none.shape == (0, 3)


def test_keypoints_are_those_of_bicubic_heatmaps() -> None:
    boxes = _boxes(12) - 10
    boxes[0, 2:] = boxes[0, :2] + 0.3  # less than a pixel
    boxes[1, 2] = boxes[1, 0] + 300
    heatmaps = torch.randn(len(boxes), 5, 14, 14, generator=torch.Generator().manual_seed(0))
    points, scores = locate_keypoints(heatmaps, boxes)
    for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        width, height = max(x1 - x0, 1), max(y1 - y0, 1)
        columns, rows = math.ceil(width), math.ceil(height)
        stretched = torch.nn.functional.interpolate(heatmaps[i : i + 1], (rows, columns), mode="bicubic")[0]
        best, position = stretched.flatten(1).max(dim=1)
        torch.testing.assert_close(scores[i], best)
        torch.testing.assert_close(points[i, :, 0], x0 + (position % columns + 0.5) * (width / columns))
        torch.testing.assert_close(points[i, :, 1], y0 + (position // columns + 0.5) * (height / rows))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(locate_keypoints(heatmaps, boxes), (points, scores))


def test_keypoint_loss_counts_visible_points_within_their_box() -> None:
    boxes, truths = [torch.tensor([[0.0, 0, 8, 8]])], [torch.tensor([0])]
    # In the box; on its far edge, which is the last cell's; outside; invisible.
    keypoints = torch.tensor([[[2.5, 1.5, 1], [8, 8, 2], [9, 1, 1], [1, 1, 0]]])
    logits = torch.zeros(1, 4, 4, 4)
    assert keypoint_loss(logits, boxes, truths, [keypoints]) == pytest.approx(math.log(16))
    logits[0, 0, 0, 1] = logits[0, 1, 3, 3] = 50.0
    assert keypoint_loss(logits, boxes, truths, [keypoints]) < 1e-6
    assert keypoint_loss(logits, boxes, truths, [keypoints[:, 2:].repeat(1, 2, 1)]) == 0


def _chosen_in_loops(
    candidates: Candidates, sizes: list[tuple[int, int]], iou_threshold: float, limit: int, min_side: float
) -> list[dict[str, Tensor]]:
    """`choose`, image by image and label by label."""
    chosen = []
    for i, size in enumerate(sizes):
        mine = candidates.take(candidates.images == i)
        boxes = clip_boxes_to_image(mine.boxes, size)
        kept: list[int] = []
        for label in set(mine.labels.tolist()):
            index = torch.where(mine.labels == label)[0]
            index = index[remove_small_boxes(boxes[index], min_side)]
            kept += index[nms(boxes[index], mine.scores[index], iou_threshold)].tolist()
        best = sorted(kept, key=lambda k: -mine.scores[k].item())[:limit]
        chosen.append({"boxes": boxes[best], "labels": mine.labels[best], "scores": mine.scores[best]})
    return chosen


def test_all_images_and_labels_are_chosen_from_as_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    count, sizes = 600, [(100, 120), (90, 130), (140, 60), (50, 50)]
    candidates = Candidates(
        boxes=_boxes(count, size=70) - 20,
        scores=torch.rand(count, generator=generator),
        labels=torch.randint(1, 5, (count,), generator=generator),
        images=torch.randint(0, 3, (count,), generator=generator),  # none in the last image
    )
    found = choose(candidates, sizes, iou_threshold=0.4, limit=25, min_side=3)
    expected = _chosen_in_loops(candidates, sizes, 0.4, 25, 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert [len(f["boxes"]) for f in found] == [25, 25, 25, 0]
    nothing = choose(candidates.take(torch.zeros(count, dtype=torch.bool)), sizes, iou_threshold=0.4, limit=25)
    assert [f["boxes"].shape for f in nothing] == [(0, 4)] * 4


@pytest.mark.parametrize("with_quality", [False, True])
def test_best_pairs_of_maps_are_those_of_all_pairs(with_quality: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    cells, classes, count, threshold = (40, 12, 3), 7, 20, 0.4
    logits = [torch.randn(2, n, classes, generator=generator) for n in cells]
    qualities = [torch.randn(2, n, generator=generator) for n in cells]
    image, anchor, label, score = best_of_maps(
        logits, qualities if with_quality else None, count=count, threshold=threshold
    )
    found = dict(zip(zip(image.tolist(), anchor.tolist(), label.tolist(), strict=True), score.tolist(), strict=True))
    expected, start = {}, 0
    for logit, quality in zip(logits, qualities, strict=True):
        for i in range(2):
            scores = logit[i].sigmoid()
            if with_quality:
                scores = (scores * quality[i].sigmoid()[:, None]).sqrt()
            top = scores.flatten().topk(min(count, scores.numel()))
            for value, pair in zip(top.values.tolist(), top.indices.tolist(), strict=True):
                if value > threshold:
                    expected[i, start + pair // classes, pair % classes] = value
        start += logit.shape[1]
    assert found == pytest.approx(expected) and len(found) > 2 * count
    assert image.equal(image.sort().values)


@pytest.mark.parametrize("threshold", [0.3, 0.93, 2.0], ids=["too many of each class", "too many of one", "none"])
def test_best_anchors_of_classes_are_those_of_each_class_alone(threshold: float) -> None:
    scores = torch.rand(3, 50, 4, generator=torch.Generator().manual_seed(0))
    scores[1, :, 2] = scores[1, :, 2] / 20 + 0.94  # more than fit, where the other classes have few or none
    found = best_of_classes(scores, count=20, threshold=threshold)
    expected = set()
    for image in range(3):
        for label in range(4):
            top = scores[image, :, label].topk(20)
            pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
            expected |= {(image, anchor, label, score) for anchor, score in pairs if score > threshold}
    rows = list(zip(*(column.tolist() for column in found), strict=True))
    assert set(rows) == expected and len(rows) == len(expected)
    assert found[0].equal(found[0].sort().values)


def test_few_anchors_of_classes_are_all_found() -> None:
    scores = torch.tensor([[[0.1, 0.9], [0.7, 0.2], [0.3, 0.8]]])
    image, anchor, label, score = best_of_classes(scores, count=2, threshold=0.5)
    rows = zip(image.tolist(), anchor.tolist(), label.tolist(), score.tolist(), strict=True)
    assert sorted(rows) == [(0, 0, 1, pytest.approx(0.9)), (0, 1, 0, pytest.approx(0.7)), (0, 2, 1, pytest.approx(0.8))]
    assert [len(column) for column in best_of_classes(scores[:0], count=2, threshold=0.5)] == [0] * 4


class _Still(nn.Module):
    """A backbone of two empty maps."""

    out_channels = 32

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {str(s): x.new_zeros(len(x), 32, x.shape[2] // s, x.shape[3] // s) for s in (8, 16)}


def test_cells_learn_the_smallest_object_around_them_of_their_maps_size() -> None:
    squares = AnchorGenerator(sizes=((8,), (16,)), aspect_ratios=((1.0,),) * 2)
    model = FCOS(_Still(), 3, anchor_generator=squares, head=FCOSHead(32, 1, 3))
    anchors, _ = squares(_batch(128, 128), list(_Still()(torch.zeros(1, 3, 128, 128)).values()))
    reach = model._reach(anchors, [256, 64])
    # One within the other, both for the fine map; one for the coarse map.
    boxes = torch.tensor([[8.0, 8, 56, 56], [20, 20, 44, 44], [0, 0, 130, 130]])
    matches = model._match(boxes, anchors, reach)
    fine, coarse = matches[:256].reshape(16, 16), matches[256:].reshape(8, 8)  # centres at multiples of 8 and 16
    assert fine[4, 4] == 1 and fine[3, 5] == 1  # the centre of both, and 8 pixels from it: the smaller one's
    assert fine[2, 4] == BELOW_LOW  # 16 pixels from the centre is more than 1.5 squares
    assert (fine == 0).sum() == 0 and (fine == 2).sum() == 0
    assert coarse[4, 4] == 2 and (coarse == 2).sum() == 9 and (coarse >= 0).sum() == 9
    assert model._match(boxes[:0], anchors, reach).tolist() == [BELOW_LOW] * 320
    assert (model._match(boxes[:1], anchors, reach) == 0).sum() == 9
