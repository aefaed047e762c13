"""All published weight sets are listed and resolve by every name, with the reference's facts as their metadata."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from tests.models import reference

from zoofleet import _catalog
from zoofleet._catalog import download
from zoofleet.errors import UnknownWeightsError
from zoofleet.models import WeightsEnum, get_model_builder, get_model_weights, get_weight

ROWS: list[dict[str, Any]] = reference.load("weights.json")
SERVED = [row for row in ROWS if row["builder"] in _catalog.builders()]


def _id(row: dict[str, Any]) -> str:
    return f"{row['enum']}.{row['member']}"


def _enum(row: dict[str, Any]) -> type[WeightsEnum]:
    """The enum class as it is imported from the task's package."""
    task = _catalog.builders()[row["builder"]].task
    package = importlib.import_module("zoofleet.models" + ("" if task == "classification" else f".{task}"))
    enum: type[WeightsEnum] = getattr(package, row["enum"])
    return enum


def test_there_are_166() -> None:
    assert len(ROWS) == len({_id(row) for row in ROWS}) == 166
    published = [
        f"{info.enum}.{info.member}" for info in _catalog.all_weights() if not download.in_repository(info.url)
    ]
    assert sorted(published) == sorted(map(_id, ROWS))


@pytest.mark.parametrize("row", SERVED, ids=_id)
def test_a_set_resolves_by_enum_string_and_full_name(row: dict[str, Any]) -> None:
    enum = _enum(row)
    member = getattr(enum, row["member"])
    assert get_model_weights(row["builder"]) is enum
    assert get_model_weights(get_model_builder(row["builder"])) is enum
    assert enum[row["member"]] is enum(member.value) is member
    assert enum.verify(row["member"]) is enum.verify(_id(row)) is enum.verify(member) is member
    assert get_weight(_id(row)) is member
    assert (enum.DEFAULT is member) == row["default"]
    assert (get_weight(f"{row['enum']}.DEFAULT") is member) == row["default"]


@pytest.mark.parametrize("row", SERVED, ids=_id)
def test_a_sets_metadata_equal_the_facts(row: dict[str, Any]) -> None:
    member = get_weight(_id(row))
    assert member.url == row["url"]
    expected = dict(row["meta"])
    if "categories" in expected:
        expected["categories"] = reference.load("categories.json")[expected["categories"]]
    if "unquantized" in expected:
        expected["unquantized"] = get_weight(expected["unquantized"])
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in member.meta.items()} == expected
    preset = member.transforms()
    assert type(preset).__name__ == row["transforms"]["preset"]
    for option, value in row["transforms"].items():
        if option != "preset":
            assert getattr(preset, option) == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("enum", sorted({row["enum"] for row in SERVED}))
def test_an_enum_has_these_sets_in_this_order(enum: str) -> None:
    members = [row["member"] for row in SERVED if row["enum"] == enum]
    found = get_model_weights(next(row["builder"] for row in SERVED if row["enum"] == enum))
    assert [member.name for member in found if not download.in_repository(member.url)] == members
    with pytest.raises(UnknownWeightsError, match=f"{enum} has no member 'IMAGENET'; it has {', '.join(members)}"):
        found.verify("IMAGENET")
