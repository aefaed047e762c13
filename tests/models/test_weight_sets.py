"""What type checkers and editors see of the weight enums, and that it is what there is."""

from __future__ import annotations

import ast
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import mypy.api
import pytest

from zoofleet import _catalog
from zoofleet.models import get_model_weights

ROOT = Path(__file__).parents[2]

# torch is left out, which takes a minute to read and has no part in this.
CONFIG = f"""
[mypy]
strict = true
mypy_path = {ROOT}/src
explicit_package_bases = true
[mypy-zoofleet.*]
follow_imports = silent
[mypy-torch.*]
follow_imports = skip
ignore_missing_imports = true
"""

RIGHT = """
from zoofleet.models import ResNet50_Weights, WeightsEnum, get_model_weights, resnet50
from zoofleet.models.quantization import ResNet50_QuantizedWeights

newest: WeightsEnum = ResNet50_Weights.DEFAULT
resnet50(weights=ResNet50_Weights.IMAGENET1K_V1).eval()
print(newest.url, newest is ResNet50_Weights.IMAGENET1K_V2, ResNet50_QuantizedWeights.IMAGENET1K_FBGEMM_V1.value.meta)
print(get_model_weights("resnet50").DEFAULT, [member.name for member in ResNet50_Weights])
"""

TYPO = """
from zoofleet.models.resnet import ResNet50_Weights, resnet50

resnet50(weights=ResNet50_Weights.IMAGENET1K_V9)
"""


def script() -> ModuleType:
    loader = SourceFileLoader("weights_script", str(ROOT / "scripts" / "weights"))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_a_type_checker_knows_the_members(tmp_path: Path) -> None:
    files = {"right.py": RIGHT, "typo.py": TYPO, "mypy.ini": CONFIG}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    right, typo, config = (str(tmp_path / name) for name in files)
    report, failure, _ = mypy.api.run(["--config-file", config, "--cache-dir", str(tmp_path / "cache"), right, typo])
    assert not failure
    errors = [line for line in report.splitlines() if ": error: " in line]
    assert len(errors) == 1, report
    assert "typo.py:4" in errors[0]
    assert '"type[ResNet50_Weights]" has no attribute "IMAGENET1K_V9"' in errors[0]


def test_the_stub_lists_the_enums_as_they_are() -> None:
    classes = [node for node in ast.parse(script().STUB.read_text()).body if isinstance(node, ast.ClassDef)]
    listed = {
        cls.name: [target.id for node in cls.body if isinstance(node, ast.Assign) for target in node.targets]  # type: ignore[attr-defined]
        for cls in classes
    }
    made = {enum.__name__: list(enum.__members__) for enum in map(get_model_weights, _catalog.builders())}
    assert listed == made


def test_a_stale_stub_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script()
    monkeypatch.setattr(sys, "argv", ["weights", "--check"])
    module.main()
    stale = tmp_path / "_weight_sets.pyi"
    stale.write_text(module.STUB.read_text().replace("IMAGENET1K_V2 = ...", "IMAGENET1K_V3 = ...", 1))
    monkeypatch.setattr(module, "STUB", stale)
    with pytest.raises(SystemExit, match="is stale: run scripts/weights"):
        module.main()
    monkeypatch.setattr(sys, "argv", ["weights"])
    module.main()
    monkeypatch.setattr(sys, "argv", ["weights", "--check"])
    module.main()
