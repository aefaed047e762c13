"""What the drawings show, checked on pixels, and that any values and sizes can be drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from zoofleet._cli import render
from zoofleet._media.palette import voc_palette
from zoofleet.errors import InvalidArgumentError

Float32 = npt.NDArray[np.float32]


def _array(*values: Any) -> Float32:
    return np.array(values, dtype=np.float32)


def _gray(width: int = 320, height: int = 240) -> Image.Image:
    return Image.new("RGB", (width, height), (128, 128, 128))


def _pixels(image: Image.Image) -> npt.NDArray[np.int64]:
    assert image.mode == "RGB"
    return np.asarray(image).astype(np.int64)


def _box_color(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    return tuple(_pixels(image)[y, x].tolist())


def test_detections_leave_the_original_alone_and_draw_a_box_where_it_is() -> None:
    image = _gray()
    drawn = render.draw_detections(image, _array([50, 60, 200, 180]), ["cat"], _array(0.9))
    assert drawn.size == image.size and np.all(_pixels(image) == 128)
    changed = (_pixels(drawn) != 128).any(axis=2)
    assert changed[180, 55:200].all() and changed[65:180, 200].all() and changed[65:180, 50].all()
    assert not changed[100:170, 60:190].any() and not changed[190:].any()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_images_of_any_mode_are_drawn_on(mode: str) -> None:
    drawn = render.draw_detections(_gray().convert(mode), _array([5, 6, 20, 18]), ["cat"], _array(0.9))
    assert drawn.mode == "RGB"


def test_categories_keep_their_colors_and_differ() -> None:
    boxes = _array([10, 100, 60, 200], [100, 100, 160, 200], [200, 100, 260, 200])
    drawn = render.draw_detections(_gray(), boxes, ["cat", "dog", "cat"], _array(0.9, 0.8, 0.7))
    cat, dog, other_cat = (_box_color(drawn, x, 150) for x in (10, 100, 200))
    assert cat == other_cat != dog
    alone = render.draw_detections(_gray(), boxes[:1], ["cat"], _array(0.9))
    assert _box_color(alone, 10, 150) == cat


def test_no_two_of_ten_categories_share_a_color() -> None:
    names = [f"category {i}" for i in range(10)]
    boxes = np.stack([_array(30 * i + 5, 100, 30 * i + 25, 200) for i in range(10)])
    drawn = render.draw_detections(_gray(), boxes, names, np.ones(10, np.float32))
    assert len({_box_color(drawn, 30 * i + 5, 150) for i in range(10)}) == 10


def test_more_categories_than_colors_are_drawn() -> None:
    boxes = np.tile(_array(10, 100, 60, 200), (90, 1))
    drawn = render.draw_detections(_gray(), boxes, [str(i) for i in range(90)], np.ones(90, np.float32))
    assert (_pixels(drawn) != 128).any()


def test_masks_are_translucent_inside_and_solid_at_the_outline() -> None:
    mask = np.zeros((1, 240, 320), np.bool_)
    mask[0, 80:160, 80:240] = True
    bright = np.zeros((240, 320, 3), np.uint8)
    bright[:, 160:] = 255
    box = _array([20, 30, 300, 220])
    drawn = _pixels(render.draw_detections(Image.fromarray(bright), box, ["cat"], _array(0.9), mask))
    assert (drawn[120, 100] != drawn[120, 220]).all(), "the picture shows through"
    np.testing.assert_array_equal(drawn[80, 100], drawn[80, 220])
    np.testing.assert_array_equal(drawn[80, 100], drawn[120, 20])
    assert (drawn[70, 100] == 0).all() and (drawn[70, 220] == 255).all()


def test_the_surest_mask_is_on_top() -> None:
    masks = np.zeros((2, 240, 320), np.bool_)
    masks[:, 50:200, 50:200] = True
    boxes = np.tile(_array(50, 50, 200, 200), (2, 1))
    both = render.draw_detections(_gray(), boxes, ["cat", "dog"], _array(0.2, 0.9), masks)
    dog = render.draw_detections(_gray(), boxes[:1], ["dog"], _array(0.9), masks[:1])
    assert _box_color(both, 50, 120) == _box_color(dog, 50, 120)


def test_tags_do_not_cover_each_other() -> None:
    boxes = np.tile(_array(100, 100, 200, 200), (2, 1))
    one = _pixels(render.draw_detections(_gray(), boxes[:1], ["cat"], _array(0.9)))
    two = _pixels(render.draw_detections(_gray(), boxes, ["cat", "cat"], _array(0.9, 0.8)))
    np.testing.assert_array_equal(one[80:99, 99:150], two[80:99, 99:150])
    assert (one != two).any()


def test_tags_stay_inside_the_picture() -> None:
    long_name = "a category with quite a long name, longer than the picture is wide, " * 3
    for box in ([0, 0, 5, 5], [315, 0, 319, 239], [315, 235, 319, 239], [-90, -90, 900, 900]):
        drawn = render.draw_detections(_gray(), _array(box), [long_name], _array(0.9))
        changed = (_pixels(drawn) != 128).any(axis=2)
        assert changed.sum() > 2000 and drawn.size == (320, 240)


def _person() -> tuple[Float32, Float32]:
    keypoints = np.ones((1, 17, 3), np.float32)
    keypoints[0, :, 0] = np.linspace(40, 280, 17)
    keypoints[0, :, 1] = np.where(np.arange(17) % 2, 60, 180)
    return keypoints, _array([20, 20, 300, 220])


def test_keypoints_are_joined_to_a_skeleton() -> None:
    keypoints, box = _person()
    without = _pixels(render.draw_detections(_gray(), box, ["person"], _array(0.9)))
    drawn = _pixels(render.draw_detections(_gray(), box, ["person"], _array(0.9), keypoints=keypoints))
    changed = (drawn != without).any(axis=2)
    for x, y, _ in keypoints[0]:
        assert changed[round(float(y)), round(float(x))]
    between = keypoints[0, [7, 9], :2].mean(axis=0)  # left elbow and wrist
    assert changed[round(float(between[1])), round(float(between[0]))]


def test_unseen_unsure_and_infinite_keypoints_are_left_out() -> None:
    keypoints, box = _person()
    plain = _pixels(render.draw_detections(_gray(), box, ["person"], _array(0.9)))
    scores = np.full((1, 17), -1, np.float32)
    unsure = render.draw_detections(_gray(), box, ["person"], _array(0.9), None, keypoints, scores)
    np.testing.assert_array_equal(_pixels(unsure), plain)
    keypoints[0, :9, 2] = 0
    keypoints[0, 9:, 0] = np.nan
    unseen = render.draw_detections(_gray(), box, ["person"], _array(0.9), None, keypoints)
    np.testing.assert_array_equal(_pixels(unseen), plain)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30, 1e30])
def test_wild_values_are_drawn_or_left_out(value: float) -> None:
    keypoints, box = _person()
    keypoints[0, 3, :2] = value
    wild = np.concatenate([box, _array([value, 10, 50, 60])])
    both = np.concatenate([keypoints, keypoints + np.float32(0)])
    drawn = render.draw_detections(_gray(), wild, ["person"] * 2, _array(0.9, value), keypoints=both)
    assert drawn.size == (320, 240)


def test_reversed_boxes_and_no_boxes_are_fine() -> None:
    boxes = _array([200, 180, 50, 60])
    drawn = render.draw_detections(_gray(), boxes, ["cat"], _array(0.9))
    expected = render.draw_detections(_gray(), boxes[:, [2, 3, 0, 1]], ["cat"], _array(0.9))
    np.testing.assert_array_equal(_pixels(drawn), _pixels(expected))
    nothing = render.draw_detections(_gray(), np.zeros((0, 4), np.float32), [], np.zeros(0, np.float32))
    assert np.all(_pixels(nothing) == 128)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (7, 5), (3000, 40)])
def test_every_drawing_takes_small_and_odd_sizes(size: tuple[int, int]) -> None:
    image = _gray(*size)
    shape = (size[1], size[0])
    masks, keypoints = np.ones((1, *shape), np.bool_), np.ones((1, 17, 3), np.float32)
    drawn = render.draw_detections(image, _array([0, 0, 3, 3]), ["cat"], _array(0.9), masks, keypoints)
    assert drawn.size == size
    assert render.draw_label_map(image, np.ones(shape, np.uint8), ["a", "b"]).size == size
    assert render.draw_classification(image, ["cat"], _array(0.5)).width == size[0]
    assert render.side_by_side([image, image], ["one", "two"]).height >= size[1]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("boxes", {"boxes": np.zeros((1, 5), np.float32)}),
        ("scores", {"scores": np.zeros(2, np.float32)}),
        ("masks", {"masks": np.zeros((1, 320, 240), np.bool_)}),
        ("keypoints", {"keypoints": np.zeros((1, 17, 2), np.float32)}),
        ("keypoint_scores", {"keypoint_scores": np.zeros((1, 17), np.float32)}),
    ],
)
def test_shapes_that_do_not_fit_are_refused(name: str, changes: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"boxes": _array([0, 0, 3, 3]), "labels": ["cat"], "scores": _array(0.9)} | changes
    with pytest.raises(InvalidArgumentError, match=f"^{name} of shape"):
        render.draw_detections(_gray(), **arguments)


def test_label_map_paints_all_but_the_background_and_names_what_is_there() -> None:
    label_map = np.zeros((240, 320), np.uint8)
    label_map[100:220, 200:300] = 15
    drawn = _pixels(render.draw_label_map(_gray(), label_map, ["background", *(f"class {i}" for i in range(20))]))
    expected = (0.4 * 128 + 0.6 * voc_palette()[15]).astype(np.int64)
    np.testing.assert_array_equal(drawn[150, 250], expected)
    assert (drawn[230, 310] == 128).all()
    assert (drawn[:60, :60] != 128).any(), "the legend"
    empty = render.draw_label_map(_gray(), np.zeros((240, 320), np.uint8), ["background"])
    assert np.all(_pixels(empty) == 128)


def test_label_map_takes_labels_beyond_the_names() -> None:
    label_map = np.random.default_rng(0).integers(0, 256, (240, 320), dtype=np.uint8)
    assert render.draw_label_map(_gray(), label_map, ["background"]).size == (320, 240)
    with pytest.raises(InvalidArgumentError, match="320x240"):
        render.draw_label_map(_gray(), label_map.T, ["background"])


def test_classification_bars_grow_with_the_score_below_the_picture() -> None:
    drawn = render.draw_classification(_gray(), ["cat", "dog"], _array(0.75, 0.2))
    pixels = _pixels(drawn)
    assert drawn.width == 320 and np.all(pixels[:240] == 128) and not np.all(pixels[240:] == pixels[240, 0])
    blue = (pixels[240:, :, 2] > pixels[240:, :, 0] + 50).sum(axis=1)  # the filled part of a bar, row by row
    first, second = blue[: len(blue) // 2].max(), blue[len(blue) // 2 :].max()
    assert first / second == pytest.approx(0.75 / 0.2, rel=0.15)
    other = render.draw_classification(_gray(), ["a", "b" * 300], _array(np.nan, 7))
    assert other.size == drawn.size, "frames of a clip stay equal in size"
    with pytest.raises(InvalidArgumentError, match=r"\(3,\) for 2 labels"):
        render.draw_classification(_gray(), ["cat", "dog"], _array(0.75, 0.2, 0.1))


@pytest.mark.parametrize(
    ("u", "v", "color"),
    [
        (1, 0, (255, 0, 0)),
        (0, 1, (255, 230, 0)),
        (-1, 0, (0, 210, 255)),
        (0, -1, (95, 0, 255)),
        (0, 0, (255, 255, 255)),
    ],
    ids=["right", "down", "left", "up", "rest"],
)
def test_flow_colors_follow_the_middlebury_wheel(u: float, v: float, color: tuple[int, int, int]) -> None:
    flow = np.empty((2, 4, 6), np.float32)
    flow[0], flow[1] = u, v
    image = render.flow_to_image(flow, max_norm=1)
    assert image.size == (6, 4)
    np.testing.assert_allclose(_pixels(image)[2, 3], color, atol=25)


def test_flow_saturates_at_max_norm() -> None:
    flow = np.zeros((2, 1, 5), np.float32)
    flow[0, 0] = [0, 5, 10, 20, 20]
    red = _pixels(render.flow_to_image(flow, max_norm=10))[0]
    assert red[1].tolist() == [255, 127, 127] and red[2].tolist() == [255, 0, 0]
    assert red[3].tolist() == [191, 0, 0], "darker beyond"
    own = _pixels(render.flow_to_image(flow))[0]
    assert own[2].tolist() == [255, 127, 127] and own[3].tolist() == [255, 0, 0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2e9])
def test_unknown_flow_is_black_and_does_not_set_the_scale(value: float) -> None:
    flow = np.zeros((2, 1, 2), np.float32)
    flow[0, 0], flow[1, 0] = [3, 3], [0, value]
    pixels = _pixels(render.flow_to_image(flow))[0]
    assert pixels.tolist() == [[255, 0, 0], [0, 0, 0]]


def test_wrong_flow_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"\(4, 5, 2\)"):
        render.flow_to_image(np.zeros((4, 5, 2), np.float32))
    for max_norm in (0, -1, float("nan")):
        with pytest.raises(InvalidArgumentError, match="max_norm"):
            render.flow_to_image(np.zeros((2, 4, 5), np.float32), max_norm=max_norm)
    assert render.flow_to_image(np.zeros((2, 0, 5), np.float32)).size == (5, 0)


def test_side_by_side_brings_pictures_to_the_height_of_the_first() -> None:
    left, right = Image.new("RGB", (100, 80), (255, 0, 0)), Image.new("L", (400, 160), 255)
    joined = render.side_by_side([left, right], ["left", "right"])
    pixels = _pixels(joined)
    head = joined.height - 80
    assert head > 0 and (pixels[head:, :100] == [255, 0, 0]).all() and (pixels[head:, -200:] == 255).all()
    for images, captions in (([], []), ([left], ["a", "b"])):
        with pytest.raises(InvalidArgumentError, match="caption"):
            render.side_by_side(images, captions)
