"""All weight sets are listed and resolve by every name; the reference's, with its facts as their metadata."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from tests.models import reference

from zoofleet import _catalog
from zoofleet._catalog import WeightsInfo
from zoofleet.errors import UnknownWeightsError
from zoofleet.models import get_model_builder, get_model_weights, get_weight

ROWS: list[dict[str, Any]] = reference.load("weights.json")


def _id(row: dict[str, Any]) -> str:
    return f"{row['enum']}.{row['member']}"


def _name(info: WeightsInfo) -> str:
    return f"{info.enum}.{info.member}"


def test_all_of_the_references_sets_are_there_and_none_is_there_twice() -> None:
    names = [_name(info) for info in _catalog.all_weights()]
    assert len(names) == len(set(names))
    assert {_id(row) for row in ROWS} <= set(names)


@pytest.mark.parametrize("info", _catalog.all_weights(), ids=_name)
def test_a_set_resolves_by_enum_string_and_full_name(info: WeightsInfo) -> None:
    task = _catalog.builders()[info.builder].task
    package = importlib.import_module("zoofleet.models" + ("" if task == "classification" else f".{task}"))
    enum = getattr(package, info.enum)
    member = getattr(enum, info.member)
    assert get_model_weights(info.builder) is enum
    assert get_model_weights(get_model_builder(info.builder)) is enum
    assert enum[info.member] is enum(member.value) is member
    assert enum.verify(info.member) is enum.verify(_name(info)) is enum.verify(member) is member
    assert get_weight(_name(info)) is member
    assert (enum.DEFAULT is member) == info.default
    assert (get_weight(f"{info.enum}.DEFAULT") is member) == info.default
    assert type(member.transforms()).__name__ == info.transforms["preset"]


@pytest.mark.parametrize("row", ROWS, ids=_id)
def test_a_sets_metadata_equal_the_facts(row: dict[str, Any]) -> None:
    member = get_weight(_id(row))
    assert get_model_weights(row["builder"]) is type(member)
    assert (type(member).DEFAULT is member) == row["default"]
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


@pytest.mark.parametrize("enum", sorted({row["enum"] for row in ROWS}))
def test_an_enum_has_these_sets_in_this_order(enum: str) -> None:
    members = [row["member"] for row in ROWS if row["enum"] == enum]
    found = get_model_weights(next(row["builder"] for row in ROWS if row["enum"] == enum))
    assert [member.name for member in found if member.name in members] == members
    names = ", ".join(member.name for member in found)
    with pytest.raises(UnknownWeightsError, match=f"{enum} has no member 'IMAGENET'; it has {names}"):
        found.verify("IMAGENET")
