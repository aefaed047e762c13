"""Right answers through a whole cluster: the repository's weights on held-out scenes whose ground truth is exact.

The thresholds are lower than the accuracy on the weights' cards, since there are few scenes. What a mistake on the way
would do to the results is done to them here, and must be caught.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from demo import dataset as shapes
from PIL import Image
from tests.cluster.conftest import Cluster
from torch.nn import functional

from zoofleet import Client
from zoofleet._catalog import category_lists
from zoofleet._evaluate import Dataset, Metric, Sample, Scores, evaluate, open_dataset
from zoofleet._results import Classification, Detections, Flow, Outcome, Segmentation, categories_of
from zoofleet.models import get_model, get_model_weights

pytestmark = [pytest.mark.cluster]

SEED = 7
SCENES = 48


@dataclass(frozen=True)
class Case:
    """A model, what it is measured on, and how right it must be.

    Attributes:
        builder: its weights are SHAPES_V1.
        images, annotations: within the folder of the dataset.
        metric: name of the metric.
        bound: it must be at least so high; at most, where `errors`.
        tolerance: by how much the same model may differ in this process.
        mistakes: what may go wrong with an outcome, by name.
        errors: whether the metric counts errors.
    """

    builder: str
    images: str
    annotations: str | None
    metric: str
    bound: float
    tolerance: float
    mistakes: dict[str, Callable[[Outcome], Outcome]]
    errors: bool = False

    @property
    def model(self) -> str:
        return f"{self.builder}@SHAPES_V1"

    def open(self, folder: Path) -> Dataset:
        return open_dataset(self.model, folder / self.images, folder / self.annotations if self.annotations else None)

    def holds(self, scores: Scores) -> bool:
        value = scores.metrics[self.metric]
        return value <= self.bound if self.errors else value >= self.bound


def next_label(outcome: Outcome) -> Outcome:
    assert isinstance(outcome, Classification)
    return replace(outcome, labels=outcome.labels + 1)


def boxes_of_network_input(outcome: Outcome) -> Outcome:
    """Boxes in the 320 x 320 pixels that the network sees rather than in the image's."""
    assert isinstance(outcome, Detections)
    height, width = outcome.image_size
    scale = np.array([320 / width, 320 / height] * 2, dtype=np.float32)
    return replace(outcome, boxes=outcome.boxes * scale)


def boxes_xywh(outcome: Outcome) -> Outcome:
    assert isinstance(outcome, Detections)
    boxes = outcome.boxes.copy()
    boxes[:, 2:] -= boxes[:, :2]
    return replace(outcome, boxes=boxes)


def shifted_mask(outcome: Outcome, pixels: int) -> Outcome:
    assert isinstance(outcome, Segmentation)
    return replace(outcome, label_map=np.roll(outcome.label_map, pixels, axis=1))


def swapped_axes(outcome: Outcome) -> Outcome:
    assert isinstance(outcome, Flow)
    return Flow(np.ascontiguousarray(outcome.flow[::-1]))


def reversed_flow(outcome: Outcome) -> Outcome:
    assert isinstance(outcome, Flow)
    return Flow(-outcome.flow)


CASES = (
    Case("mobilenet_v3_small", "classes", None, "acc@1", 0.9, 0.005, {"next label": next_label}),
    Case(
        "ssdlite320_mobilenet_v3_large",
        "images",
        "annotations.json",
        "box_AP50",
        0.85,
        0.005,
        {"boxes of the network's input": boxes_of_network_input, "boxes as xywh": boxes_xywh},
    ),
    Case(
        "lraspp_mobilenet_v3_large",
        "images",
        "label_maps",
        "miou",
        0.8,
        0.005,
        {"shifted mask": partial(shifted_mask, pixels=8)},
    ),
    Case(
        "raft_small",
        "frames",
        "flow",
        "epe",
        1.2,
        0.02,
        {"swapped axes": swapped_axes, "reversed": reversed_flow},
        errors=True,
    ),
)


class Recording:
    """A metric that keeps what it was given.

    Attributes:
        added: samples and outcomes.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self.added: list[tuple[Sample, Outcome]] = []

    def add(self, sample: Sample, outcome: Outcome) -> None:
        self.added.append((sample, outcome))
        self._metric.add(sample, outcome)

    def result(self) -> Scores:
        return self._metric.result()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of held-out scenes."""
    folder = tmp_path_factory.mktemp("shapes")
    shapes.write_images(folder, SEED, SCENES)
    shapes.write_classes(folder, SEED, 2 * SCENES)
    shapes.write_flow(folder, SEED, SCENES // 3)
    return folder


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    """Of a cluster with one worker."""
    cluster.start_scheduler()
    cluster.start_worker()
    with Client(cluster.address) as client:
        yield client


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.builder)
def test_right_through_the_cluster_and_mistakes_are_caught(case: Case, client: Client, folder: Path) -> None:
    dataset = case.open(folder)
    recording = Recording(dataset.new_metric())
    evaluation = evaluate(client, replace(dataset, new_metric=lambda: recording))
    assert not evaluation.failures
    assert evaluation.item_count == len(recording.added) == len(dataset.samples)
    scores = recording.result()
    print(case.model, evaluation.metrics)
    assert case.holds(scores)

    here = dataset.new_metric()
    run = in_process(case.builder)
    with torch.inference_mode():
        for sample in dataset.samples:
            here.add(sample, run(sample))
    difference = here.result().metrics[case.metric] - scores.metrics[case.metric]
    assert abs(difference) <= case.tolerance

    for name, mistake in case.mistakes.items():
        wrong = dataset.new_metric()
        for sample, outcome in recording.added:
            wrong.add(sample, mistake(outcome))
        assert not case.holds(wrong.result()), f"{name} went unnoticed"


def in_process(builder: str) -> Callable[[Sample], Outcome]:
    """The model without any cluster: Pillow, the weights' transforms, the network."""
    weights = get_model_weights(builder)["SHAPES_V1"]
    transforms = weights.transforms()
    model = get_model(builder, weights=weights).eval()
    names = tuple(weights.meta.get("categories", ()))

    def classify(sample: Sample) -> Outcome:
        scores = model(transforms(opened(sample.media)).unsqueeze(0)).softmax(1)[0]
        best = scores.topk(5)
        labels = best.indices.numpy()
        return Classification(labels, best.values.numpy(), categories_of(labels, names))

    def segment(sample: Sample) -> Outcome:
        image = opened(sample.media)
        logits = model(transforms(image).unsqueeze(0))["out"]
        logits = functional.interpolate(logits, size=(image.height, image.width), mode="bilinear", align_corners=False)
        return Segmentation(logits.argmax(1)[0].to(torch.uint8).numpy(), names)

    def detect(sample: Sample) -> Outcome:
        image = opened(sample.media)
        found = model([transforms(image)])[0]
        labels = found["labels"].numpy()
        return Detections(
            (image.height, image.width),
            found["boxes"].numpy(),
            found["scores"].numpy(),
            labels,
            categories_of(labels, names),
        )

    def flow(sample: Sample) -> Outcome:
        assert isinstance(sample.media, tuple)
        first, second = transforms(*(opened(path) for path in sample.media))
        return Flow(model(first.unsqueeze(0), second.unsqueeze(0))[-1][0].numpy())

    return {
        "mobilenet_v3_small": classify,
        "lraspp_mobilenet_v3_large": segment,
        "ssdlite320_mobilenet_v3_large": detect,
        "raft_small": flow,
    }[builder]


def opened(path: Path | tuple[Path, Path]) -> Image.Image:
    assert isinstance(path, Path)
    with Image.open(path) as image:
        return image.convert("RGB")


def test_the_worlds_categories_are_the_weights() -> None:
    from demo.world import CATEGORIES

    assert category_lists()["shapes"] == CATEGORIES
    assert category_lists()["shapes_background"] == ("__background__", *CATEGORIES)
