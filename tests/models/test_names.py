"""Names that code written for torchvision imports are there, with the parameters that it passes."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

TABLE = Path(__file__).parents[1] / "data" / "torchvision_names.txt"
LINES = [line for line in TABLE.read_text().splitlines() if line and not line.startswith("#")]

Parameter = inspect.Parameter


def found(dotted: str) -> Any:
    """The object of that name: its module imported as such code does, then its attributes."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(["zoofleet", *parts[:end]]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            value = getattr(value, name)
        return value
    raise AssertionError(dotted)


def taken(value: Any) -> dict[str, Parameter]:
    """Parameters by name: its own, then what its `**options` take, which its base and the detectors' transform name."""
    own = dict(inspect.signature(value).parameters)
    if any(p.kind is Parameter.VAR_KEYWORD for p in own.values()) and inspect.isclass(value):
        for base in value.__mro__[1:]:
            if "__init__" in vars(base) and base.__module__.startswith("zoofleet.models.detection"):
                own = {**inspect.signature(base).parameters, **own}
        transform = found("models.detection.transform.GeneralizedRCNNTransform")
        own = {**inspect.signature(transform).parameters, **own}
    return own


def default_of(source: ast.expr) -> Any:
    """A literal's value; of the name of a class, the name."""
    return source.id if isinstance(source, ast.Name) else ast.literal_eval(source)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.partition("(")[0])
def test_names_are_there_with_their_parameters(line: str) -> None:
    dotted, bracket, rest = line.partition("(")
    value = found(dotted)
    if not bracket:
        return
    (function,) = ast.parse(f"def f({rest}: ...").body
    assert isinstance(function, ast.FunctionDef)
    expected, parameters = function.args, taken(value)
    positional = [p.name for p in parameters.values() if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    names = [arg.arg for arg in expected.args]
    own = [name for name in names if name in inspect.signature(value).parameters and name in positional]
    assert [name for name in inspect.signature(value).parameters if name in own] == own, "another order"
    required = len(names) - len(expected.defaults)
    defaults = dict(zip(names[required:], expected.defaults, strict=True))
    defaults |= {a.arg: d for a, d in zip(expected.kwonlyargs, expected.kw_defaults, strict=True) if d is not None}
    for name in [*names, *(a.arg for a in expected.kwonlyargs)]:
        assert name in parameters, f"no parameter {name}: {inspect.signature(value)}"
        if name in defaults:
            given = parameters[name].default
            assert getattr(given, "__name__", given) == default_of(defaults[name]), name
    own_required = {
        n
        for n, p in inspect.signature(value).parameters.items()
        if p.default is Parameter.empty and p.kind is not Parameter.VAR_KEYWORD
    }
    assert own_required <= {*names, *(a.arg for a in expected.kwonlyargs)}, "a parameter that the reference has not"


def test_operators_have_their_name_beside_the_models_too() -> None:
    for name in ("ops", "ops.boxes", "ops.feature_pyramid_network", "ops.misc", "ops.poolers"):
        alias, module = importlib.import_module(f"zoofleet.{name}"), importlib.import_module(f"zoofleet.models.{name}")
        assert alias.__all__ == module.__all__
        assert all(getattr(alias, member) is getattr(module, member) for member in module.__all__)
