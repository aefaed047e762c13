"""Folders of images or clips with their ground truth, for each kind of task."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeAlias

from zoofleet import _catalog
from zoofleet._catalog import ModelName
from zoofleet._client.items import item_ids
from zoofleet._evaluate.average_precision import AveragePrecision, keypoints_of, require_pycocotools
from zoofleet._evaluate.coco import CocoFile, read_coco
from zoofleet._evaluate.flow_files import require_png_reader
from zoofleet._evaluate.metrics import EndPointError, MeanIou, Metric, Sample, TopK
from zoofleet._media.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, expand
from zoofleet._values.tasks import Classify, ClassifyClip, Detect, EstimateFlow, Precision, Segment, Task
from zoofleet._wire.kinds import TaskKind, kind_of
from zoofleet.errors import InvalidArgumentError

__all__ = ["Dataset", "open_dataset"]

_SHOWN: Final = 5
"""Number of names that a message lists."""

_FRAME_SUFFIXES: Final = IMAGE_SUFFIXES | {".ppm"}
"""Images of optical flow. FlyingChairs has PPM files, which no server reads, so they travel as PNG."""


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Items with their ground truth, and how a model is measured on them.

    Attributes:
        task: the model, with the options that it is measured with.
        images: the folder of images or clips.
        annotations: the file or folder of annotations. None where the names of folders are the annotations.
        samples: the items with their ground truth.
        new_metric: makes an empty metric for these items.
        notes: sentences on what does not count.
    """

    task: Task
    images: Path
    annotations: Path | None
    samples: tuple[Sample, ...]
    new_metric: Callable[[], Metric]
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> ModelName:
        """The model's name with its weights resolved."""
        return ModelName.parse(self.task.model)


def open_dataset(
    model: str,
    images: Path,
    annotations: Path | None = None,
    *,
    limit: int | None = None,
    num_flow_updates: int | None = None,
    precision: Precision | None = None,
) -> Dataset:
    """Find the items of a dataset, and check those annotations that are in one file.

    Args:
        model: the model's name, such as `resnet50@IMAGENET1K_V2`. Its kind of task decides what is read:
            Classification of images or clips reads `images/<category>/**`. Folders are matched to the model's
            categories by name. Where no name matches and there are as many folders as categories, they are matched
            in sorted order.
            Detection reads `annotations`, a COCO JSON file.
            Segmentation reads `annotations`, a folder of label maps, which are PNGs. They are matched to images by
            their path without suffix.
            Optical flow reads `annotations`, a folder of `.flo` files or KITTI's PNGs. For `S.flo` or `S_flow.flo` the
            first image is `S` or `S_img1`, the second is `S_img2` or the file that follows the first in its folder.
        images: the folder of images or clips.
        annotations: the file or folder of annotations, as above. None for classification.
        limit: number of items to measure, evenly spread over the dataset. None for all.
        num_flow_updates: number of times that optical flow is refined. None for the server's default.
        precision: how closely results must follow the reference. None for the operator's choice.

    Raises:
        InvalidArgumentError: the annotations are malformed, missing or not wanted, or they fit neither the images nor
            the model.
        MediaNotFoundError: a folder is not there.
        InvalidMediaError: a folder holds no files of the right kind.
        FailedPreconditionError: a library of the extra `evaluate` is not installed.
        UnknownModelError, UnknownWeightsError: there is no such model or weight set.
    """
    name = ModelName.parse(model)
    layout = _LAYOUTS[kind_of(name)]
    if limit is not None and limit < 1:
        raise InvalidArgumentError(f"limit is {limit}; accepted: 1 or more")
    if layout.annotations is None and annotations is not None:
        raise InvalidArgumentError(f"{name} classifies: the names of folders are the annotations, not {annotations}")
    if not images.is_dir():
        raise InvalidArgumentError(f"{str(images)!r} is no folder")
    if layout.annotations is not None and annotations is None:
        raise InvalidArgumentError(f"{name} needs annotations: {layout.annotations}")
    task = replace(layout.task(str(name)), precision=precision)
    if isinstance(task, EstimateFlow):
        task = replace(task, num_flow_updates=num_flow_updates)
    found, new_metric, notes = layout.read(name, images, annotations or images)
    samples = _spread(found, limit)
    if layout.names_files:
        _require_files(samples, images, annotations)
    return Dataset(task, images, annotations, samples, new_metric, notes)


def normalized(name: str) -> str:
    """Return a category's name for comparison: in lower case, with one space for spaces and underscores."""
    return re.sub(r"[\s_]+", " ", name).strip().casefold()


def _listed(names: Iterable[object]) -> str:
    shown = list(names)
    return ", ".join(map(str, shown[:_SHOWN])) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")


def _categories(model: ModelName) -> tuple[str, ...]:
    names = _catalog.categories(model)
    if not names:
        raise InvalidArgumentError(f"{model} has no list of categories to compare with")
    return names


def _finder(categories: Sequence[str]) -> Callable[[str], int | None]:
    """Return a function that finds a category by its exact name, else by its normalized name if that is unique."""
    exact, loose = (_unique(names) for names in (categories, list(map(normalized, categories))))
    return lambda name: exact[name] if name in exact else loose.get(normalized(name))


def _unique(names: Sequence[str]) -> Mapping[str, int]:
    counts = Counter(names)
    return {name: index for index, name in enumerate(names) if counts[name] == 1}


def _spread(samples: Sequence[Sample], limit: int | None) -> tuple[Sample, ...]:
    """Return at most `limit` samples, evenly spread, so that they come from all parts of a sorted list."""
    if limit is None or limit >= len(samples):
        return tuple(samples)
    return tuple(samples[i * len(samples) // limit] for i in range(limit))


def _samples(root: Path, media: Sequence[Path | tuple[Path, Path]], truths: Sequence[int | Path]) -> list[Sample]:
    """Return samples, each with an id: the path of its first file under the root."""
    ids = item_ids((one[0] if isinstance(one, tuple) else one).relative_to(root) for one in media)
    if len(ids) < len(media):
        twice = Counter(one[0] if isinstance(one, tuple) else one for one in media).most_common(1)[0][0]
        raise InvalidArgumentError(f"several annotations are of {twice}")
    return [Sample(*row) for row in zip(ids, media, truths, strict=True)]


def _require_files(samples: Sequence[Sample], images: Path, annotations: Path | None) -> None:
    missing = [one.item_id for one in samples if not (isinstance(one.media, Path) and one.media.is_file())]
    if missing:
        raise InvalidArgumentError(
            f"{len(missing)} images that {annotations} names are not in {images}: {_listed(missing)}"
        )


_Contents: TypeAlias = tuple[list[Sample], Callable[[], Metric], tuple[str, ...]]
"""The items of a dataset, what makes an empty metric for them, and notes on what does not count."""


def _read_categories(model: ModelName, images: Path, _: Path, *, suffixes: frozenset[str]) -> _Contents:
    categories = _categories(model)
    folders = sorted(path for path in images.iterdir() if path.is_dir() and not path.name.startswith("."))
    find = _finder(categories)
    truths = [find(folder.name) for folder in folders]
    unknown = [folder.name for folder, truth in zip(folders, truths, strict=True) if truth is None]
    if unknown and len(unknown) == len(folders) == len(categories):
        truths = list(range(len(folders)))
    elif unknown or not folders:
        raise InvalidArgumentError(
            f"{len(unknown)} of {len(folders)} folders in {images} are no category of {model}: {_listed(unknown)}; its "
            f"{len(categories)} categories are {_listed(categories)}; folders without their names must be as many"
            if folders
            else f"{images} has no folders; one for each category is needed"
        )
    found = [
        (path, truth)
        for folder, truth in zip(folders, truths, strict=True)
        if truth is not None
        for path in expand([str(folder)], suffixes)
    ]
    samples = _samples(images, [path for path, _ in found], [truth for _, truth in found])
    return samples, partial(TopK, categories), ()


def _read_coco(model: ModelName, images: Path, annotations: Path) -> _Contents:
    require_pycocotools()
    truth = read_coco(annotations)
    find = _finder(_categories(model))
    labels = {row.category_id: find(row.name) for row in truth.categories}
    category_ids = {label: category_id for category_id, label in labels.items() if label is not None}
    unknown = [row.name for row in truth.categories if labels[row.category_id] is None]
    if not category_ids:
        raise InvalidArgumentError(f"no category of {annotations} is one of {model}: {_listed(unknown)}")
    if len(category_ids) + len(unknown) < len(labels):
        raise InvalidArgumentError(f"several categories of {annotations} are the same one of {model}")
    _check_keypoints(model, truth, category_ids)
    rows = truth.images
    if not rows:
        raise InvalidArgumentError(f"{annotations} lists no images")
    samples = _samples(images, [images / row.file_name for row in rows], [row.image_id for row in rows])
    notes = (f"{model} lacks these categories, which do not count: {', '.join(unknown)}.",) if unknown else ()
    return samples, partial(AveragePrecision, truth, category_ids), notes


def _check_keypoints(model: ModelName, truth: CocoFile, category_ids: Mapping[int, int]) -> None:
    info = model.published
    names = [normalized(name) for name in info.meta.get("keypoint_names", ())] if info else []
    count, with_keypoints = keypoints_of(truth, set(category_ids.values()))
    if not names or not count:
        return
    if count != len(names):
        raise InvalidArgumentError(f"{model} finds {len(names)} keypoints; the annotations have {count}")
    for category in truth.categories:
        given = [normalized(name) for name in category.keypoint_names]
        if category.category_id in with_keypoints and given and given != names:
            raise InvalidArgumentError(
                f"{model} finds the keypoints {', '.join(names)}; the annotations have {', '.join(given)}"
            )


def _stem(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _by_stem(folder: Path, suffixes: frozenset[str], without: Iterable[Path] = ()) -> dict[str, list[Path]]:
    """Return the files in a folder by their path in it, without suffix."""
    left_out = {path.absolute() for path in without}
    stems: dict[str, list[Path]] = {}
    for path in expand([str(folder)], suffixes):
        if path.absolute() not in left_out:
            stems.setdefault(_stem(path, folder), []).append(path)
    return stems


def _only(paths: Sequence[Path]) -> Path:
    if len(paths) > 1:
        raise InvalidArgumentError(f"several images have one name: {_listed(paths)}")
    return paths[0]


def _read_label_maps(model: ModelName, images: Path, annotations: Path) -> _Contents:
    _require_folder(annotations)
    label_maps = expand([str(annotations)], frozenset({".png"}))
    stems = _by_stem(images, IMAGE_SUFFIXES, without=label_maps)
    lonely = [path for path in label_maps if _stem(path, annotations) not in stems]
    if lonely:
        raise InvalidArgumentError(f"{len(lonely)} label maps have no image in {images}: {_listed(lonely)}")
    media = [_only(stems[_stem(path, annotations)]) for path in label_maps]
    return _samples(images, media, label_maps), partial(MeanIou, _categories(model)), ()


def _read_flows(_: ModelName, images: Path, annotations: Path) -> _Contents:
    _require_folder(annotations)
    files = expand([str(annotations)], frozenset({".flo", ".png"}))
    # A folder of .flo files may be the folder of the images, which may be PNGs.
    flows = [path for path in files if path.suffix.lower() == ".flo"] or files
    if flows is files:
        require_png_reader()
    stems = _by_stem(images, _FRAME_SUFFIXES, without=flows)
    following = _following(path for paths in stems.values() for path in paths)
    pairs = [_pair(_stem(path, annotations).removesuffix("_flow"), stems, following) for path in flows]
    lonely = [path for path, pair in zip(flows, pairs, strict=True) if pair is None]
    if lonely:
        raise InvalidArgumentError(f"{len(lonely)} flows have no pair of images in {images}: {_listed(lonely)}")
    return _samples(images, [pair for pair in pairs if pair is not None], flows), EndPointError, ()


def _require_folder(annotations: Path) -> None:
    if not annotations.is_dir():
        raise InvalidArgumentError(f"{str(annotations)!r} is no folder")


def _following(paths: Iterable[Path]) -> Mapping[Path, Path]:
    """Return the file that follows each file in its folder, by name."""
    ordered = sorted(paths)
    return {one: two for one, two in pairwise(ordered) if one.parent == two.parent}


def _pair(stem: str, stems: Mapping[str, Sequence[Path]], following: Mapping[Path, Path]) -> tuple[Path, Path] | None:
    firsts = stems.get(stem) or stems.get(f"{stem}_img1")
    if not firsts:
        return None
    first = _only(firsts)
    seconds = stems.get(f"{stem}_img2")
    second = _only(seconds) if seconds else following.get(first)
    return None if second is None else (first, second)


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the data for a kind of task lie in files.

    Attributes:
        task: makes the task, with the options that a model is measured with, for a model's name.
        annotations: what the annotations are, in words. None where the names of folders are the annotations.
        read: finds the items in the folder of images and the annotations.
        names_files: whether the annotations name the images, some of which may not be there.
    """

    task: Callable[[str], Task]
    annotations: str | None
    read: Callable[[ModelName, Path, Path], _Contents]
    names_files: bool = False


_LAYOUTS: Final[Mapping[TaskKind, _Layout]] = {
    TaskKind.CLASSIFY: _Layout(partial(Classify, top_k=5), None, partial(_read_categories, suffixes=IMAGE_SUFFIXES)),
    TaskKind.CLASSIFY_CLIP: _Layout(
        partial(ClassifyClip, top_k=5), None, partial(_read_categories, suffixes=VIDEO_SUFFIXES)
    ),
    # What scores low belongs to the curve of precision over recall, and COCOeval takes 100 of each category: each
    # detector's own limits apply, as where published figures were measured.
    TaskKind.DETECT: _Layout(
        partial(Detect, score_threshold=0.0, max_detections=1000), "a COCO JSON file", _read_coco, names_files=True
    ),
    TaskKind.SEGMENT: _Layout(Segment, "a folder of label maps", _read_label_maps),
    TaskKind.ESTIMATE_FLOW: _Layout(EstimateFlow, "a folder of flows", _read_flows),
}
