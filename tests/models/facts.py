"""Write the facts of builders that torchvision lacks, and say what else they lack, each with the file to edit.

The facts are what the tests of all builders read in tests/data/zoo. They are read off the builder as it is now, and
marked as our own. Facts that were read off torchvision are left alone. Ends with 1 where something is missing.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from zoofleet import _catalog
from zoofleet.errors import ZoofleetError

if TYPE_CHECKING:
    from tests.models.reference import Built

ROOT = Path(__file__).parents[2]


def missing_rows(name: str) -> list[str]:
    """What the catalog lacks, without which the zoo cannot even be imported."""
    builders, weights = (_path(_catalog._DATA / file) for file in ("builders.json", "weights.json"))
    info, rows = _catalog.builders().get(name), _catalog.weights(name)
    lacking = []
    if info is None:
        shape = json.dumps({name: {"task": "classification", "function": name, "num_params": 0}})
        lacking.append(f"{builders}: a row such as {shape[1:-1]}")
    if not rows:
        lacking.append(f'{weights}: a weight set with "builder": "{name}"')
    elif sum(row.default for row in rows) != 1:
        lacking.append(f'{weights}: "default": true in one of the weight sets of {name}, and false in all others')
    lists = {row.meta["categories"] for row in rows if "categories" in row.meta} - _catalog.category_lists().keys()
    lacking += [f"{_path(_catalog._DATA / 'categories.json')}: the list {categories!r}" for categories in lists]
    return lacking


def missing_names(name: str) -> list[str]:
    """What the modules lack through which the builder and its weights are imported."""
    from zoofleet import models

    info = _catalog.builders()[name]
    package = importlib.import_module("zoofleet.models" + ("" if info.task == "classification" else f".{info.task}"))
    if name not in models.list_models():
        return [f"{_path(package.__file__)}: an import of {info.function}, which needs @register_model"]
    exported = (info.function, models.get_model_weights(name).__name__)
    home = importlib.import_module(models.get_model_builder(name).__module__)
    lacking = [line for module in (home, package) for line in _not_exported(module, exported)]
    stub = ROOT / "models" / "_weight_sets.pyi"
    if f"class {exported[1]}(" not in stub.read_text():
        lacking.append(f"{_path(stub)}: {exported[1]}; run scripts/weights")
    return lacking


def _not_exported(module: ModuleType, names: tuple[str, ...]) -> list[str]:
    file = _path(module.__file__)
    lacking = [f"{file}: an import of {name}" for name in names if not hasattr(module, name)]
    return lacking + [f"{file}: {name} in __all__" for name in names if name not in module.__all__]


def missing_numbers(built: Built) -> list[str]:
    """What is wrong or absent of what the catalog says about a model that was built."""
    found = sum(parameter.numel() for parameter in built.model.parameters())
    said = _catalog.builders()[built.name].num_params
    lacking = [f'{_path(_catalog._DATA / "builders.json")}: "num_params": {found} of {built.name}, not {said}']
    sets = _path(_catalog._DATA / "weights.json")
    return (lacking if said != found else []) + [
        f'{sets}: "{fact}" in the meta of {row.enum}.{row.member}'
        for row in _catalog.weights(built.name)
        for fact in ("num_params", "recipe", "_metrics", "_ops", "_file_size")
        if fact not in row.meta
    ]


def _path(file: Path | str | None) -> str:
    """The path from the checkout's root, without the links through which rooms are imported."""
    path = Path(str(file)).resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def write(name: str) -> list[str]:
    """Write a builder's facts if it can be built; gives what is missing.

    Raises:
        ZoofleetError: its facts are torchvision's, or it cannot be built or run.
    """
    lacking = missing_rows(name)
    if not lacking:
        from zoofleet import models

        lacking = missing_names(name)
        if name in models.list_models():
            from tests.models import own_facts

            lacking += missing_numbers(own_facts.write(name))
    if name not in (ROOT / "CHANGELOG.md").read_text():
        lacking.append(f"CHANGELOG.md: a line about {name}")
    return lacking


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("scripts/facts", None, inspect.cleandoc(str(__doc__)))
    parser.add_argument("names", nargs="+", metavar="NAME", help="a builder that torchvision lacks")
    lacking: list[str] = []
    for name in parser.parse_args(arguments).names:
        try:
            lacking += write(name)
        except ZoofleetError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            return 2
    for line in lacking:
        print(f"missing   {line}")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
