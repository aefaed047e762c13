"""`scripts/facts` leads a builder that torchvision lacks to facts that hold it, and never replaces the reference's."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.models import facts, own_facts, reference, test_registry, test_weights, test_zoo

from zoofleet import _catalog, models
from zoofleet.models import _registry, _weights

NAME = "tinynet"
MODULE = f'''
from torch import nn

from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import TinyNet_Weights

__all__ = ["TinyNet_Weights", "{NAME}"]


@register_model(weights=TinyNet_Weights)
def {NAME}(*, num_classes: int = 2) -> nn.Sequential:
    """Build a network that is quick.

    Args:
        num_classes: length of the output.
    """
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
'''
NUM_PARAMS = 3 * 4 * 9 + 4 + 4 * 2 + 2
WEIGHTS: dict[str, Any] = {
    "builder": NAME,
    "enum": "TinyNet_Weights",
    "member": "SHAPES_V1",
    "default": True,
    "url": "https://example.org/tinynet-01234567.pth",
    "transforms": {"preset": "ImageClassification", "crop_size": 64},
    "meta": {
        "num_params": NUM_PARAMS,
        "categories": "halves",
        "recipe": "",
        "_metrics": {},
        "_ops": 0.1,
        "_file_size": 0.1,
    },
}


class Checkout:
    """The files that a new builder touches, in a folder of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.catalog, self.zoo = root / "catalog", root / "tests" / "data" / "zoo"
        shutil.copytree(_catalog._DATA, self.catalog)
        shutil.copytree(reference.ZOO, self.zoo)
        (root / "models").mkdir()
        self.stub, self.changelog = root / "models" / "_weight_sets.pyi", root / "CHANGELOG.md"
        self.stub.touch()
        self.changelog.touch()

    def edit(self, path: Path, change: Callable[[Any], Any]) -> None:
        """Replace what a JSON file holds; the catalog is read again."""
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
        forget()

    def describe(self, num_params: int = NUM_PARAMS) -> None:
        """Add the builder to the catalog."""
        row = {"task": "classification", "function": NAME, "num_params": num_params}
        self.edit(self.catalog / "builders.json", lambda rows: rows | {NAME: row})
        self.edit(self.catalog / "categories.json", lambda lists: lists | {"halves": ["left", "right"]})
        self.edit(self.catalog / "weights.json", lambda rows: [*rows, WEIGHTS])

    def note(self) -> None:
        """Name the builder and its weights where no test runs."""
        self.stub.write_text("class TinyNet_Weights(WeightsEnum):")
        self.changelog.write_text(f"- `{NAME}`")

    def register(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Add the builder's module; gives it."""
        path = self.root / f"{NAME}.py"
        path.write_text(MODULE)
        spec = importlib.util.spec_from_file_location(f"zoofleet.models.{NAME}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    def export(self, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Import the builder and its weights in the package."""
        for name in module.__all__:
            monkeypatch.setattr(models, name, getattr(module, name), raising=False)
        monkeypatch.setattr(models, "__all__", [*models.__all__, *module.__all__])


def forget() -> None:
    for cached in (_catalog.builders, _catalog.all_weights, _catalog.category_lists):
        cached.cache_clear()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkout]:
    made = Checkout(tmp_path.resolve())
    monkeypatch.setattr(facts, "ROOT", made.root)
    monkeypatch.setattr(reference, "ZOO", made.zoo)
    monkeypatch.setattr(_catalog, "_DATA", made.catalog)
    monkeypatch.setattr(_registry, "_entries", dict(_registry._entries))
    monkeypatch.setattr(_weights, "_enums", dict(_weights._enums))
    forget()
    yield made
    forget()


@pytest.fixture
def newcomer(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """A new builder, complete, with its facts."""
    checkout.describe()
    checkout.export(checkout.register(monkeypatch), monkeypatch)
    checkout.note()
    assert facts.main([NAME]) == 0
    return checkout


def test_what_is_missing_is_said_with_its_file(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> list[str]:
        assert facts.main([NAME]) == 1
        lines = capsys.readouterr().out.splitlines()
        return [line.removeprefix("missing   ") for line in lines if line.startswith("missing")]

    changes = f"CHANGELOG.md: a line about {NAME}"
    builders, sets, changelog = missing()
    assert builders.startswith('catalog/builders.json: a row such as "tinynet": {"task"') and changelog == changes
    assert sets == 'catalog/weights.json: a weight set with "builder": "tinynet"'

    checkout.describe(num_params=0)
    named_elsewhere = WEIGHTS | {"default": False, "meta": WEIGHTS["meta"] | {"categories": "thirds"}}
    checkout.edit(checkout.catalog / "weights.json", lambda rows: [*rows[:-1], named_elsewhere])
    default, categories, _ = missing()
    assert default.startswith('catalog/weights.json: "default": true in one') and "categories.json" in categories

    unmeasured = WEIGHTS | {"meta": {key: value for key, value in WEIGHTS["meta"].items() if key != "_file_size"}}
    checkout.edit(checkout.catalog / "weights.json", lambda rows: [*rows[:-1], unmeasured])
    (importing, _) = missing()
    assert importing.endswith("models/__init__.py: an import of tinynet, which needs @register_model")

    module = checkout.register(monkeypatch)
    lines = missing()
    assert [line.partition(": ")[2] for line in lines[:4]] == [
        "an import of tinynet",
        "an import of TinyNet_Weights",
        "tinynet in __all__",
        "TinyNet_Weights in __all__",
    ]
    assert lines[4:] == [
        "models/_weight_sets.pyi: TinyNet_Weights; run scripts/weights",
        'catalog/builders.json: "num_params": 122 of tinynet, not 0',
        'catalog/weights.json: "_file_size" in the meta of TinyNet_Weights.SHAPES_V1',
        changes,
    ]

    checkout.export(module, monkeypatch)
    checkout.describe()
    checkout.edit(checkout.catalog / "weights.json", lambda rows: [*rows[:-2], WEIGHTS])
    checkout.note()
    assert facts.main([NAME]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {"unchanged"}


def check() -> None:
    """What the tests of all builders ask of this one."""
    built = reference.build(NAME)
    test_zoo.test_state_dict_equals_the_manifest(built)
    test_zoo.test_initialisation_draws_the_same_numbers(built)
    test_zoo.test_number_of_parameters_equals_the_catalog(built)
    test_zoo.test_output_equals_the_reference(built)
    test_zoo.test_two_threads_on_one_model_equal_one(NAME)
    test_registry.test_the_registry_holds_the_catalog()
    test_registry.test_each_builder_is_exported_where_its_task_stands(NAME)
    for info in _catalog.weights(NAME):
        test_weights.test_a_set_resolves_by_enum_string_and_full_name(info)
    test_the_facts_are_about_the_catalogs_builders()


def test_the_facts_of_a_new_builder_are_marked_and_hold_it(newcomer: Checkout) -> None:
    check()
    assert reference.load("builders.json")[NAME]["source"] == reference.load(f"outputs/{NAME}.json")["source"] == "own"
    assert reference.load(f"outputs/{NAME}.json")["input"]["kind"] == "(image(64,64,1)/255-0.45)/0.225, NCHW"


def _shifted(output: dict[str, Any]) -> dict[str, Any]:
    output["output"]["samples"][0] += 0.01
    return output


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (f"state_dicts/{NAME}.json", lambda rows: [*rows[:-1], ["3.bias", "float32", [3]]]),
        (f"state_dicts/{NAME}.json", lambda rows: rows[::-1]),
        ("builders.json", lambda rows: rows | {NAME: rows[NAME] | {"seed0_sha256": "0" * 64}}),
        ("builders.json", lambda rows: {name: row for name, row in rows.items() if name != NAME}),
        (f"outputs/{NAME}.json", _shifted),
        ("../../../catalog/builders.json", lambda rows: rows | {NAME: rows[NAME] | {"num_params": 121}}),
    ],
    ids=["shape", "order", "initialisation", "absent", "output", "parameters"],
)
def test_a_wrong_fact_fails(newcomer: Checkout, path: str, change: Callable[[Any], Any]) -> None:
    newcomer.edit(newcomer.zoo / path, change)
    with pytest.raises((AssertionError, KeyError)):
        check()


def test_the_references_facts_are_not_replaced(checkout: Checkout, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in checkout.zoo.rglob("*.json")}
    assert facts.main(["squeezenet1_1"]) == 2
    assert "squeezenet1_1: its facts were read off torchvision; they are not replaced" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in checkout.zoo.rglob("*.json")} == before


@pytest.mark.parametrize(
    "name", ["quantized_shufflenet_v2_x0_5", "lraspp_mobilenet_v3_large", "raft_small", "ssdlite320_mobilenet_v3_large"]
)
def test_what_is_written_of_the_references_builders_is_what_stands_there(name: str, checkout: Checkout) -> None:
    """As if torchvision lacked them: the facts are read off ours in the same format, and come out the same."""
    before = {path: path.read_text() for path in checkout.zoo.rglob("*.json")}
    output, losses = reference.load(f"outputs/{name}.json"), reference.load("losses.json")
    checkout.edit(checkout.zoo / "builders.json", lambda rows: {key: rows[key] for key in rows if key != name})
    own_facts.write(name)
    for path, text in before.items():
        if path.parent.name != "outputs" and path.name not in ("builders.json", "losses.json"):
            assert path.read_text() == text, path
    rows = json.loads(before[checkout.zoo / "builders.json"])
    assert reference.load("builders.json") == rows | {name: rows[name] | {"source": "own"}}
    written = reference.load(f"outputs/{name}.json")
    assert written["input"] == output["input"]
    assert _shapes(written["output"]) == _shapes(output["output"])
    if "samples" in output["output"]:
        std = output["output"]["std"]
        assert written["output"]["samples"] == pytest.approx(output["output"]["samples"], rel=1e-3, abs=1e-4 * std)
    assert _shapes(reference.load("losses.json")) == _shapes(losses)


def _shapes(value: Any) -> Any:
    """What a fact says but for its numbers."""
    if isinstance(value, dict):
        return {key: value[key] if key == "shape" else _shapes(value[key]) for key in value}
    return [_shapes(item) for item in value] if isinstance(value, list) else type(value)


def test_the_facts_are_about_the_catalogs_builders() -> None:
    rows = reference.load("builders.json")
    assert rows.keys() == _catalog.builders().keys()
    assert {row.get("source") for row in rows.values()} <= {None, own_facts.OWN}
    outputs = {path.stem for path in (reference.ZOO / "outputs").iterdir()}
    layouts = {path.stem.removesuffix(".int8") for path in (reference.ZOO / "state_dicts").iterdir()}
    assert outputs == layouts == rows.keys()
    for name, row in rows.items():
        assert reference.load(f"outputs/{name}.json").get("source") == row.get("source"), name
