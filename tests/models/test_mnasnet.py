"""MNASNet: what the versions of its state dicts mean."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from zoofleet.errors import InvalidArgumentError, InvalidWeightsError
from zoofleet.models.mnasnet import MNASNet

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def _version_1(alpha: float) -> Any:
    """A state dict as it was written when `alpha` left the stem alone: that of alpha 1 with a narrower rest."""
    torch.manual_seed(0)
    state = MNASNet(alpha, num_classes=5).state_dict()
    stem = MNASNet(1, num_classes=5).state_dict()
    width = state["layers.8.0.layers.6.weight"].shape[0]
    for key in list(state):
        index = int(key.split(".")[1])
        if key.startswith("layers.") and index < 8:
            state[key] = stem[key]
        elif key.startswith("layers.8."):
            # The first stack now starts from 16 channels; its later blocks are those of its own width.
            if key.startswith("layers.8.0.layers.") and int(key.split(".")[4]) < 6:
                state[key] = stem[key]
            elif key == "layers.8.0.layers.6.weight":
                state[key] = stem[key][:width]
    state._metadata[""]["version"] = 1  # type: ignore[attr-defined]
    return state


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan")])
def test_impossible_widths_are_refused_by_value(alpha: float) -> None:
    with pytest.raises(InvalidArgumentError, match=str(alpha)):
        MNASNet(alpha)


def test_version_1_brings_the_unscaled_stem_and_stays_version_1() -> None:
    old = _version_1(0.5)
    model = MNASNet(0.5, num_classes=5).eval()
    with pytest.warns(UserWarning, match="version 1"):
        model.load_state_dict(old)
    assert model.get_parameter("layers.0.weight").shape[0] == 32
    saved = model.state_dict()
    again = MNASNet(0.5, num_classes=5).eval()
    with pytest.warns(UserWarning, match="version 1"):
        again.load_state_dict(saved)
    with torch.inference_mode():
        assert torch.equal(again(IMAGES), model(IMAGES))


def test_version_1_of_full_width_is_like_version_2() -> None:
    state = MNASNet(1, num_classes=5).state_dict()
    state._metadata[""]["version"] = 1  # type: ignore[attr-defined]
    model = MNASNet(1, num_classes=5)
    model.load_state_dict(state)
    assert model.state_dict()._metadata[""]["version"] == 2  # type: ignore[attr-defined]


def test_unknown_versions_are_refused_by_value() -> None:
    model = MNASNet(0.5)
    state = copy.copy(model.state_dict())
    state._metadata = {"": {"version": 3}}  # type: ignore[attr-defined]
    with pytest.raises(InvalidWeightsError, match="got 3"):
        model.load_state_dict(state)


def test_a_state_dict_that_does_not_tell_is_current() -> None:
    torch.manual_seed(0)
    model, other = MNASNet(0.5, num_classes=5).eval(), MNASNet(0.5, num_classes=5).eval()
    other.load_state_dict(dict(model.state_dict()))
    with torch.inference_mode():
        assert torch.equal(other(IMAGES), model(IMAGES))
