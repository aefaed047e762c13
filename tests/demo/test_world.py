"""The procedural world: its ground truth is what its pictures show, and its training can be repeated."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from demo import dataset, train
from demo.recipes import HELD_OUT, RECIPES
from demo.train import Run
from demo.world import CATEGORIES, KEYPOINTS, MOTIONS, Scene, portrait, scene
from PIL import Image
from pycocotools.coco import COCO
from torch.nn import functional

from zoofleet._evaluate.flow_files import read_flow

ROOT = Path(__file__).parents[2]


def test_a_seed_gives_a_scene() -> None:
    first, again, other = scene(3, 1).frame(), scene(3, 1).frame(), scene(3, 2).frame()
    assert (first.image == again.image).all()
    assert (first.label_map == again.label_map).all()
    assert first.image.shape == other.image.shape == (240, 320, 3)
    assert (first.image != other.image).any()


@pytest.mark.parametrize("category", range(len(CATEGORIES)), ids=CATEGORIES)
def test_a_shape_has_the_area_of_its_outline(category: int) -> None:
    made = portrait(5, category, category=category, side=400)
    size = made.shapes[0].pose.size
    (instance,) = made.frame().instances
    expected = {
        "circle": np.pi,
        "square": 1.6**2,
        "triangle": 3 * np.sqrt(3) / 4,
        "star": 5 * 0.45 * np.sin(np.pi / 5),
        "cross": 4 * 0.66 - 0.66**2,
        "ring": np.pi * (1 - 0.25),
        "crescent": np.pi - _crescent_cut(),
        "arrow": 0.9 * 0.75 + 0.5 * 1.1,
    }[CATEGORIES[category]]
    assert instance.mask.sum() / instance.visibility / size**2 == pytest.approx(expected, rel=0.01)


def _crescent_cut() -> float:
    """The area that two circles of radii 1 and 0.8 share, whose centres are 0.55 apart."""
    d, r, s = 0.55, 1.0, 0.8
    a = r**2 * np.arccos((d**2 + r**2 - s**2) / (2 * d * r))
    b = s**2 * np.arccos((d**2 + s**2 - r**2) / (2 * d * s))
    c = 0.5 * np.sqrt((-d + r + s) * (d + r - s) * (d - r + s) * (d + r + s))
    return float(a + b - c)


def test_masks_boxes_and_label_maps_agree() -> None:
    for seed in range(20):
        frame = scene(6, seed, count=(3, 6)).frame()
        seen = np.zeros_like(frame.label_map)
        for instance in frame.instances:
            x0, y0, x1, y1 = instance.box
            assert instance.mask[y0:y1, x0:x1].sum() == instance.mask.sum()
            assert instance.mask[y0].any() and instance.mask[y1 - 1].any()
            assert instance.mask[:, x0].any() and instance.mask[:, x1 - 1].any()
            assert 0.5 <= instance.visibility <= 1
            assert not seen[instance.mask].any()  # each pixel belongs to one
            seen[instance.mask] = instance.category + 1
        assert (seen == frame.label_map).all()


def test_keypoints_lie_on_the_arrow() -> None:
    arrow = CATEGORIES.index("arrow")
    for seed in range(20):
        (instance,) = portrait(8, seed, category=arrow, side=200).frame().instances
        assert instance.keypoints is not None
        visible = instance.keypoints[instance.keypoints[:, 2] == 2]
        assert len(visible) >= 3
        rows, columns = np.nonzero(instance.mask)
        for x, y, _ in visible:
            assert np.hypot(columns + 0.5 - x, rows + 0.5 - y).min() < 2.5
        points = dict(zip(KEYPOINTS, instance.keypoints, strict=True))
        if (instance.keypoints[:, 2] == 2).all():
            along, left = points["tip"] - points["tail"], points["left_barb"] - points["tail"]
            assert along[0] * left[1] - along[1] * left[0] < 0  # y points down: left is against the clock


def test_flow_leads_each_pixel_to_itself() -> None:
    for seed in range(6):
        moving = scene(9, seed, width=160, height=128, radius=(0.2, 0.35), speed=12.0, frames=2)
        flow = moving.flow()
        assert 2 < np.hypot(*flow).max() <= 12
        before, after = _mean_difference(moving, flow)
        swapped = _mean_difference(moving, flow[::-1])[1]
        assert after < 0.75 * before
        assert after < 0.75 * swapped


def _mean_difference(moving: Scene, flow: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> tuple[float, float]:
    """Mean grey levels between the frames, as they are and with the second taken where the flow leads.

    Only over pixels of the first frame that nothing hides in the second.
    """
    first, second = (moving.frame(time).image.astype(np.float32) for time in (0, 1))
    height, width = first.shape[:2]
    x = np.arange(width) + 0.5 + flow[0]
    y = np.arange(height)[:, None] + 0.5 + flow[1]
    owner = moving.owner(1)
    column, row = x.astype(int).clip(0, width - 1), y.astype(int).clip(0, height - 1)
    same = (owner[row, column] == moving.owner(0)) & (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    grid = torch.from_numpy(np.stack([2 * x / width - 1, 2 * y / height - 1], axis=-1)).float()[None]
    warped = functional.grid_sample(torch.from_numpy(second).permute(2, 0, 1)[None], grid, align_corners=False)
    led = warped[0].permute(1, 2, 0).numpy()
    return float(abs(second - first)[same].mean()), float(abs(led - first)[same].mean())


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with numpy 2
def test_a_dataset_is_read_by_others(tmp_path: Path) -> None:
    dataset.write_images(tmp_path, seed=2, count=6)
    dataset.write_flow(tmp_path, seed=2, count=1)
    coco = COCO(str(tmp_path / "annotations.json"))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(CATEGORIES)
    for image_id in coco.getImgIds():
        row = coco.loadImgs(image_id)[0]
        with Image.open(tmp_path / "images" / row["file_name"]) as image:
            assert image.size == (row["width"], row["height"])
        with Image.open(tmp_path / "label_maps" / row["file_name"]) as image:
            labels = np.array(image)
        drawn = np.zeros_like(labels)
        for annotation in coco.loadAnns(coco.getAnnIds(image_id)):
            mask = coco.annToMask(annotation).astype(bool)
            assert mask.sum() == annotation["area"]
            drawn[mask] = annotation["category_id"]
        assert (drawn == labels).all()
    flow, valid = read_flow(tmp_path / "flow" / "000000" / "frame_0000.flo")
    expected = scene(HELD_OUT, 2, 0, speed=12.0, frames=2).flow()
    assert (flow == expected).all() and valid.all()


def test_clips_move_as_they_are_called(tmp_path: Path) -> None:
    dataset.write_clips(tmp_path, seed=2, count=len(MOTIONS))
    assert {path.parent.name for path in tmp_path.glob("clips/*/*.mp4")} == set(MOTIONS)
    with av.open(str(next(tmp_path.glob("clips/right/*.mp4")))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].codec_context.name == "h264"
    assert len(frames) == 24
    assert frames[0].shape == (128, 128, 3)
    for name, sign in (("right", 1), ("left", -1)):
        moving = portrait(4, 4, category=0, motion=MOTIONS[name].scaled(3))
        (start,), (end,) = (moving.frame(time).instances for time in (0, 5))
        assert sign * (end.box[0] - start.box[0]) > 0


def test_a_resumed_training_equals_one_without_a_break(tmp_path: Path) -> None:
    recipe = RECIPES["backbone_mobilenet_v3_small"]

    def begun(seed: int = 1) -> Run:
        return Run(recipe, seed, steps=24, device=torch.device("cpu"))

    def take_steps(run: Run, until: int) -> None:
        for step in range(run.done, until):
            run.step(*recipe.batch(run.seed, step))

    whole = begun()
    take_steps(whole, 4)
    broken = begun()
    take_steps(broken, 2)
    broken.save(tmp_path / "run.pt")
    resumed = begun()
    resumed.resume(tmp_path / "run.pt")
    assert resumed.done == 2
    take_steps(resumed, 4)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    with pytest.raises(SystemExit, match="of a run with"):
        begun(seed=2).resume(tmp_path / "run.pt")


@pytest.mark.parametrize(
    ("option", "accepted"), [("--count=0", 1), ("--count=-1", 1), ("--count=many", 1), ("--seed=-1", 0)]
)
def test_numbers_that_mean_nothing_are_refused(
    tmp_path: Path, option: str, accepted: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["dataset", str(tmp_path), option])
    with pytest.raises(SystemExit, match="2"):
        dataset.main()
    assert f"'{option.split('=')[1]}' is not a whole number of {accepted} or more" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (dataset.main, [], "cannot write into"),
        (train.main, ["raft_small", f"--threads={torch.get_num_threads()}", "--out"], "cannot make"),
    ],
    ids=["dataset", "train"],
)
def test_a_file_in_place_of_a_folder_is_refused(
    main: Callable[[], None],
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["demo", *arguments, str(tmp_path / "file")])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert f"{message} {tmp_path / 'file'}" in capsys.readouterr().err


def test_the_command_trains_and_another_recipe_begins_with_it(tmp_path: Path) -> None:
    def run(name: str, steps: int) -> subprocess.CompletedProcess[str]:
        command = ["-m", "demo.train", name, "--out", str(tmp_path), "--steps", str(steps), "--threads", "1"]
        return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, cwd=ROOT)

    assert "train that one first" in run("mobilenet_v3_small", 11).stderr
    backbone = run("backbone_mobilenet_v3_small", 11).stdout
    assert "step 11/11" in backbone and "demo.export" not in backbone
    assert "from step 11" in run("backbone_mobilenet_v3_small", 11).stdout
    network = run("mobilenet_v3_small", 11).stdout
    assert "step 11/11" in network and "demo.export mobilenet_v3_small" in network
