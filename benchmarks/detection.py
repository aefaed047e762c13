"""Measures the detectors' post-processing, which takes all images and classes at once, beside plain loops over them.

The loops follow the papers' descriptions and call the same kernel for non-maximum suppression. Both get the same seeded
outputs of a network's heads in one run, and must find the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from benchmarks.kernels import compare
from benchmarks.machine import Machine
from torch import Tensor, nn
from torch.nn import functional

from zoofleet.models import get_model
from zoofleet.models.detection import paste_masks
from zoofleet.models.detection._keypoints import locate_keypoints
from zoofleet.models.detection._masks import mask_probabilities
from zoofleet.models.detection.image_list import ImageList
from zoofleet.models.detection.transform import Detection
from zoofleet.models.ops import clip_boxes_to_image, nms, remove_small_boxes

ROUNDS = 10
CLASSES = 91
SIZE = (800, 1088)
SSD_SIDES = {"ssd300_vgg16": (300, (38, 19, 10, 5, 3, 1)), "ssdlite320_mobilenet_v3_large": (320, (20, 10, 5, 3, 2, 1))}
OBJECTS, CANDIDATES = 20, 10
"""Of each image in the case "few": objects, and places next to each other that find one."""


class Outputs(nn.Module):
    """Stands for a head: gives what it was made with."""

    def __init__(self, values: Any) -> None:
        super().__init__()
        self.values = values

    def forward(self, _: object) -> Any:
        return self.values


class Scene:
    """Draws outputs of heads for a batch: "few" as a trained network's, "dense" as one's that sees objects anywhere."""

    def __init__(self, case: str, images: int) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.case = case
        self.images = images

    def __str__(self) -> str:
        return f"{self.case}, {self.images} image{'s' if self.images > 1 else ''}"

    def normal(self, *shape: int, std: float = 1) -> Tensor:
        return torch.randn(*shape, generator=self.generator) * std

    def logits(self, places: int, classes: int, *, empty: float) -> Tensor:
        """(N, places, classes), around 0 in a dense scene, else around `empty` but for few places."""
        logits = self.normal(self.images, places, classes)
        if self.case == "dense":
            return logits
        first = torch.randint(places - CANDIDATES, (self.images, OBJECTS, 1), generator=self.generator)
        place = (first + torch.arange(CANDIDATES)).flatten(1)  # (N, OBJECTS * CANDIDATES)
        label = torch.randint(classes, (self.images, OBJECTS, 1), generator=self.generator)
        label = label.expand(-1, -1, CANDIDATES).flatten(1)  # (N, OBJECTS * CANDIDATES)
        logits += empty
        logits[torch.arange(self.images)[:, None], place, label] += 1.5 - empty
        return logits

    def batch(self, size: tuple[int, int]) -> ImageList:
        return ImageList(torch.zeros(self.images, 3, *size), [size] * self.images)

    def maps(self, sides: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        return {str(i): torch.zeros(self.images, 1, *side) for i, side in enumerate(sides)}

    def boxes(self, count: int) -> Tensor:
        """(count, 4), of 20 to 400 pixels a side within an image, those that follow each other overlapping."""
        centers = -(-count // 20)
        middle = torch.rand(centers, 1, 2, generator=self.generator) * torch.tensor(SIZE[::-1])
        half = torch.rand(centers, 1, 2, generator=self.generator) * 190 + 10
        shifted = middle + self.normal(centers, 20, 2) * half * 0.2  # (centers, 20, 2)
        return clip_boxes_to_image(torch.cat((shifted - half, shifted + half), dim=2).flatten(0, 1)[:count], SIZE)


def pyramid(strides: Sequence[int]) -> list[tuple[int, int]]:
    return [(-(-SIZE[0] // s), -(-SIZE[1] // s)) for s in strides]


def without_weights(name: str) -> Any:
    with torch.device("meta"):
        return get_model(name, weights=None, weights_backbone=None).eval()


def suppress(
    boxes: Tensor, scores: Tensor, labels: Tensor, *, iou_threshold: float, limit: int, min_side: float | None = None
) -> Detection:
    """The best of one image's boxes, label by label."""
    kept = []
    for label in sorted(set(labels.tolist())):
        index = torch.where(labels == label)[0]
        if min_side is not None:
            index = index[remove_small_boxes(boxes[index], min_side)]
        kept.append(index[nms(boxes[index], scores[index], iou_threshold)])
    every = torch.cat(kept) if kept else labels
    best = every[scores[every].argsort(descending=True)[:limit]]
    return {"boxes": boxes[best], "labels": labels[best], "scores": scores[best]}


def check(found: Sequence[Detection], expected: Sequence[Detection]) -> None:
    """The same detections of each image, in any order among equal scores."""
    for ours, plain in zip(found, expected, strict=True):
        rows = [
            torch.cat((d["labels"][:, None], d["scores"][:, None], d["boxes"]), dim=1).tolist() for d in (ours, plain)
        ]
        assert rows[0], "nothing was found"
        torch.testing.assert_close(*(torch.tensor(sorted(r)) for r in rows), rtol=1e-5, atol=1e-3)


def ssd(name: str, scene: Scene) -> None:
    side, cells = SSD_SIDES[name]
    model, maps, batch = without_weights(name), scene.maps([(c, c) for c in cells]), scene.batch((side, side))
    shapes = model.anchor_generator.num_anchors_per_location()
    places = sum(c * c * k for c, k in zip(cells, shapes, strict=True))
    logits = torch.cat((torch.zeros(scene.images, places, 1), scene.logits(places, CLASSES - 1, empty=-10)), dim=2)
    codes = scene.normal(scene.images, places, 4)
    model.head = Outputs((logits, codes))

    def loops() -> list[Detection]:
        anchors = model.anchor_generator(batch, list(maps.values()))[0]
        found = []
        for logit, code in zip(logits, codes, strict=True):
            decoded = clip_boxes_to_image(model.box_coder.decode(code, anchors), (side, side))
            probabilities = logit.softmax(dim=1)
            boxes, scores, labels = [], [], []
            for label in range(1, CLASSES):
                score = probabilities[:, label]
                above = torch.where(score > model.score_thresh)[0]
                top, rank = score[above].topk(min(model.topk_candidates, len(above)))
                boxes.append(decoded[above[rank]])
                scores.append(top)
                labels.append(torch.full_like(rank, label))
            joined = (torch.cat(x) for x in (boxes, scores, labels))
            found.append(suppress(*joined, iou_threshold=model.nms_thresh, limit=model.detections_per_img))
        return found

    ours = partial(model._detect, batch, maps)
    check(ours(), loops())
    compare(f"{name}, {scene}", ours, loops, ROUNDS)


def one_stage(name: str, scene: Scene) -> None:
    """RetinaNet, and FCOS with its centredness."""
    model, sides, batch = without_weights(name), pyramid((8, 16, 32, 64, 128)), scene.batch(SIZE)
    each = model.anchor_generator.num_anchors_per_location()[0]
    counts = [h * w * each for h, w in sides]
    maps, centred = scene.maps(sides), name.startswith("fcos")
    logits = list(torch.split(scene.logits(sum(counts), CLASSES, empty=-8), counts, dim=1))
    codes = [scene.normal(scene.images, n, 4) for n in counts]
    centredness = None
    if centred:
        codes, centredness = [c.abs() * 2 for c in codes], [scene.normal(scene.images, n) + 1 for n in counts]
    model.head = Outputs((logits, codes, centredness) if centred else (logits, codes))

    def loops() -> list[Detection]:
        anchors = torch.split(model.anchor_generator(batch, list(maps.values()))[0], counts)
        found = []
        for i in range(scene.images):
            boxes, scores, labels = [], [], []
            for level, logit in enumerate(logits):
                score = logit[i].sigmoid()
                if centredness is not None:
                    score = (score * centredness[level][i].sigmoid()[:, None]).sqrt()
                score = score.flatten()
                above = torch.where(score > model.score_thresh)[0]
                top, rank = score[above].topk(min(model.topk_candidates, len(above)))
                anchor = above[rank] // CLASSES
                decoded = model.box_coder.decode(codes[level][i][anchor], anchors[level][anchor])
                boxes.append(clip_boxes_to_image(decoded, SIZE))
                scores.append(top)
                labels.append(above[rank] % CLASSES)
            joined = (torch.cat(x) for x in (boxes, scores, labels))
            found.append(suppress(*joined, iou_threshold=model.nms_thresh, limit=model.detections_per_img))
        return found

    ours = partial(model._detect, batch, maps)
    check(ours(), loops())
    compare(f"{name}, {scene}", ours, loops, ROUNDS)


def proposals(scene: Scene) -> None:
    """Faster R-CNN's first stage."""
    rpn, sides = without_weights("fasterrcnn_resnet50_fpn").rpn, pyramid((4, 8, 16, 32, 64))
    maps, batch, counts = scene.maps(sides), scene.batch(SIZE), [3 * h * w for h, w in sides]
    rows = torch.split(scene.logits(sum(counts), 1, empty=-8), counts, dim=1)
    logits = [r.reshape(-1, *s, 3).permute(0, 3, 1, 2) for r, s in zip(rows, sides, strict=True)]
    codes = [scene.normal(scene.images, 12, *s, std=0.3) for s in sides]
    rpn.head = Outputs((logits, codes))

    def loops() -> list[Detection]:
        anchors = torch.split(rpn.anchor_generator(batch, list(maps.values()))[0], counts)
        found = []
        for i in range(scene.images):
            boxes, scores, labels = [], [], []
            for level, (logit, code) in enumerate(zip(logits, codes, strict=True)):
                flat = logit[i].permute(1, 2, 0).flatten()
                top, index = flat.topk(min(rpn.pre_nms_top_n["testing"], len(flat)))
                decoded = rpn.box_coder.decode(code[i].permute(1, 2, 0).reshape(-1, 4)[index], anchors[level][index])
                boxes.append(clip_boxes_to_image(decoded, SIZE))
                scores.append(top.sigmoid())
                labels.append(torch.full_like(index, level))
            joined = (torch.cat(x) for x in (boxes, scores, labels))
            limit, threshold = rpn.post_nms_top_n["testing"], rpn.nms_thresh
            found.append(suppress(*joined, iou_threshold=threshold, limit=limit, min_side=1e-3))
        return found

    def boxes_alone(found: Sequence[Tensor]) -> list[Detection]:
        return [{"boxes": b, "labels": torch.zeros(len(b)), "scores": torch.zeros(len(b))} for b in found]

    ours = partial(rpn, batch, maps)
    check(boxes_alone(ours()[0]), boxes_alone([d["boxes"] for d in loops()]))
    compare(f"fasterrcnn_resnet50_fpn's proposals, {scene}", ours, loops, ROUNDS)


def regions(scene: Scene) -> None:
    """Faster R-CNN's second stage, over 1,000 proposals of each image."""
    heads, count = without_weights("fasterrcnn_resnet50_fpn").roi_heads, 1000
    logits = torch.cat((torch.zeros(scene.images, count, 1), scene.logits(count, CLASSES - 1, empty=-10)), dim=2)
    if scene.case == "dense":
        logits = logits * 2  # a class stands out, as the threshold of 0.05 demands
    scores = logits.flatten(0, 1).softmax(dim=1)
    codes, boxes = scene.normal(scene.images * count, CLASSES, 4), [scene.boxes(count) for _ in range(scene.images)]
    sizes = [SIZE] * scene.images

    def loops() -> list[Detection]:
        found = []
        for i, proposed in enumerate(boxes):
            mine = slice(i * count, (i + 1) * count)
            kept, tops, labels = [], [], []
            for label in range(1, CLASSES):
                score = scores[mine, label]
                above = torch.where(score > heads.score_thresh)[0]
                decoded = heads.box_coder.decode(codes[mine, label][above], proposed[above])
                kept.append(clip_boxes_to_image(decoded, SIZE))
                tops.append(score[above])
                labels.append(torch.full_like(above, label))
            joined = (torch.cat(x) for x in (kept, tops, labels))
            limit, threshold = heads.detections_per_img, heads.nms_thresh
            found.append(suppress(*joined, iou_threshold=threshold, limit=limit, min_side=1e-2))
        return found

    ours = partial(heads._choose, scores, codes, boxes, sizes)
    check(ours(), loops())
    compare(f"fasterrcnn_resnet50_fpn's detections, {scene}", ours, loops, ROUNDS)


def masks(scene: Scene) -> None:
    """Mask R-CNN's: probabilities of the own class, and pasting into one image."""
    count = 100 if scene.case == "dense" else OBJECTS
    logits = scene.normal(scene.images * count, CLASSES, 28, 28)
    labels = torch.randint(CLASSES, (scene.images * count,), generator=scene.generator)

    def loops() -> Tensor:
        return torch.stack(
            [mask[label : label + 1].sigmoid() for mask, label in zip(logits, labels.tolist(), strict=True)]
        )

    ours = partial(mask_probabilities, logits, labels)
    torch.testing.assert_close(ours(), loops())
    compare(f"maskrcnn_resnet50_fpn's masks, {scene}", ours, loops, ROUNDS)
    if scene.images > 1:
        return  # images differ in size, so both paste one after the other
    probabilities, boxes = ours(), scene.boxes(count)
    paste, plain = partial(paste_masks, probabilities, boxes, SIZE), partial(paste_by_resizing, probabilities, boxes)
    torch.testing.assert_close(paste(), plain(), rtol=1e-4, atol=1e-5)
    compare(f"the same, pasted, {scene}", paste, plain, ROUNDS)


def paste_by_resizing(probabilities: Tensor, boxes: Tensor) -> Tensor:
    """Each mask with a border of zeros is resized to its pixels and copied into an image."""
    pasted = probabilities.new_zeros(len(boxes), 1, *SIZE)
    center, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * (30 / 28)
    for i, (x0, y0, x1, y1) in enumerate(torch.cat((center - half, center + half), dim=1).long().tolist()):
        padded = functional.pad(probabilities[i : i + 1], (1, 1, 1, 1))
        shape = (max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1))
        resized = functional.interpolate(padded, shape, mode="bilinear", align_corners=False)[0, 0]
        top, left, bottom, right = max(y0, 0), max(x0, 0), min(y0 + shape[0], SIZE[0]), min(x0 + shape[1], SIZE[1])
        pasted[i, 0, top:bottom, left:right] = resized[top - y0 : bottom - y0, left - x0 : right - x0]
    return pasted


def keypoints(scene: Scene) -> None:
    """Keypoint R-CNN's."""
    count = 30 if scene.case == "dense" else 5
    heatmaps = scene.normal(scene.images * count, 17, 56, 56)
    boxes = [scene.boxes(count) for _ in range(scene.images)]

    def loops() -> tuple[Tensor, Tensor]:
        points, scores = [], []
        for heatmap, (x0, y0, x1, y1) in zip(heatmaps, torch.cat(boxes).tolist(), strict=True):
            width, height = max(x1 - x0, 1), max(y1 - y0, 1)
            shape = (-int(-height // 1), -int(-width // 1))
            stretched = functional.interpolate(heatmap[None], shape, mode="bicubic", align_corners=False)[0]
            score, position = stretched.flatten(1).max(dim=1)
            x = x0 + (position % shape[1] + 0.5) * (width / shape[1])
            y = y0 + (position // shape[1] + 0.5) * (height / shape[0])
            points.append(torch.stack((x, y, torch.ones_like(x)), dim=1))
            scores.append(score)
        return torch.stack(points), torch.stack(scores)

    ours = partial(locate_keypoints, heatmaps, torch.cat(boxes))
    for found, expected in zip(ours(), loops(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    compare(f"keypointrcnn_resnet50_fpn's keypoints, {scene}", ours, loops, ROUNDS)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 8], help="in a batch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"On: {Machine.here()}, {torch.get_num_threads()} threads\n")
    print("| | at once | in loops | ratio |\n| --- | --- | --- | --- |")
    for case in ("few", "dense"):
        for images in arguments.images:
            for name in SSD_SIDES:
                ssd(name, Scene(case, images))
            for name in ("retinanet_resnet50_fpn", "fcos_resnet50_fpn"):
                one_stage(name, Scene(case, images))
            for family in (proposals, regions, masks, keypoints):
                family(Scene(case, images))


if __name__ == "__main__":
    main()
