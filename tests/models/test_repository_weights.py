"""Weight sets that come with the repository: safetensors in half precision, read where they stand in the checkout."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from zoofleet import _catalog
from zoofleet._catalog import download
from zoofleet._serving import model_messages
from zoofleet.errors import InvalidArgumentError, InvalidWeightsError, WeightsUnavailableError
from zoofleet.models import (
    MobileNet_V3_Small_Weights,
    WeightsEnum,
    _hub,
    get_model,
    get_model_weights,
    mobilenet_v3_small,
)
from zoofleet.v1 import models_pb2

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = "demo/weights"
MAX_BYTES: Final = 30_000_000
"""Of all weight files in the repository."""

ROWS: Final = [row for row in _catalog.all_weights() if download.in_repository(row.url)]

State: TypeAlias = dict[str, Tensor]

STATE: Final[State] = {"weight": torch.linspace(-1, 1, 12).reshape(4, 3).half(), "bias": torch.full((4,), 1 / 3).half()}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty checkout in place of this one, beside an empty cache."""
    root = tmp_path.resolve() / "checkout"
    (root / FOLDER).mkdir(parents=True)
    monkeypatch.setattr(download, "_REPOSITORY", root)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv(download.MIRROR, raising=False)
    return root


def put(folder: Path, content: bytes, stem: str = "net-shapes", digits: str | None = None) -> str:
    """Write a file under a name with its hash, or with other digits; gives its path in a repository."""
    name = f"{stem}-{digits or hashlib.sha256(content).hexdigest()[:8]}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return f"{FOLDER}/{name}"


def get(url: str) -> dict[str, Any]:
    return _hub.load_state_dict(url, progress=False, check_hash=True)


def test_a_file_is_read_from_the_checkout_and_not_copied(checkout: Path) -> None:
    url = put(checkout / FOLDER, save(STATE))
    found = get(url)
    assert found.keys() == STATE.keys()
    for key, value in STATE.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0)
    assert not download.cache_dir().exists()


def test_a_file_with_another_hash_is_refused_and_left_alone(checkout: Path) -> None:
    url = put(checkout / FOLDER, save(STATE), digits="01234567")
    with pytest.raises(InvalidWeightsError, match=r"has the SHA-256 .*, not 01234567\.\.\.; restore it"):
        get(url)
    assert (checkout / url).read_bytes() == save(STATE)


def test_without_a_checkout_the_error_says_where_the_file_is(checkout: Path) -> None:
    with pytest.raises(
        WeightsUnavailableError,
        match=r"comes with a clone .* not with the wheel; ZOOFLEET_WEIGHTS_MIRROR may name a clone's demo/weights",
    ):
        get(f"{FOLDER}/net-01234567.safetensors")


def test_without_a_checkout_a_mirror_has_the_file(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = tmp_path / "clone" / FOLDER
    url = put(clone, save(STATE))
    monkeypatch.setenv(download.MIRROR, str(clone))
    assert get(url).keys() == STATE.keys()
    assert (download.cache_dir() / download.file_name(url)).is_file()
    monkeypatch.delenv(download.MIRROR)
    assert get(url).keys() == STATE.keys()


def test_the_checkout_comes_before_the_mirror(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = put(checkout / FOLDER, save(STATE))
    monkeypatch.setenv(download.MIRROR, str(tmp_path / "nothing"))
    assert get(url).keys() == STATE.keys()


class _Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("what", ["pickle", "cut", "empty", "text"])
def test_other_bytes_under_that_name_are_refused_without_running_them(
    checkout: Path, tmp_path: Path, what: str
) -> None:
    ran = tmp_path / "ran"
    torch.save({"weight": _Touch(str(ran))}, tmp_path / "pickle")
    content = {
        "pickle": (tmp_path / "pickle").read_bytes(),
        "cut": save(STATE)[:-1],
        "empty": b"",
        "text": b"version https://git-lfs.github.com/spec/v1\n",
    }[what]
    url = put(checkout / FOLDER, content)
    with pytest.raises(InvalidWeightsError, match=r"shapes-\w+\.safetensors is not a file of tensors alone"):
        get(url)
    assert not ran.exists() and (checkout / url).exists()


def test_a_path_that_leads_out_of_the_repository_is_refused(checkout: Path, tmp_path: Path) -> None:
    name = Path(put(tmp_path, save(STATE))).name
    (checkout / FOLDER / name).symlink_to(tmp_path / name)
    for url in (
        f"../{name}",
        f"{FOLDER}/../../../{name}",
        str(tmp_path / name),
        f"//{tmp_path}/{name}",
        f"{FOLDER}/{name}",
    ):
        with pytest.raises(InvalidArgumentError, match="have a path within it, not '"):
            get(url)
        with pytest.raises(InvalidArgumentError, match="have a path within it, not '"):
            download.fetch(url, tmp_path / "pulled", check_hash=True)


Stand: TypeAlias = Callable[[WeightsEnum, State, str], str]


@pytest.fixture
def stand(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Puts a file of the checkout, with its own categories, in place of a published weight set."""

    def stand(weights: WeightsEnum, state: State, categories: str) -> str:
        url = put(checkout / FOLDER, save(state))
        meta = {**weights.meta, "categories": list(_catalog.category_lists()[categories])}
        monkeypatch.setattr(weights, "_value_", dataclasses.replace(weights.value, url=url, meta=meta))
        return url

    return stand


def halved(state: Mapping[str, Tensor]) -> State:
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


def assert_holds(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """The model has exactly these tensors, in its own precision."""
    own = model.state_dict()
    assert own.keys() == state.keys()
    for key, value in own.items():
        assert value.dtype in (torch.float32, torch.int64)
        torch.testing.assert_close(value, state[key].to(value.dtype), rtol=0, atol=0, msg=key)


@pytest.mark.parametrize(
    ("builder", "categories", "num_classes", "options"),
    [
        ("mobilenet_v3_small", "shapes", 8, {}),
        ("ssdlite320_mobilenet_v3_large", "shapes_background", 9, {"weights_backbone": None}),
        ("lraspp_mobilenet_v3_large", "shapes_background", 9, {"weights_backbone": None}),
    ],
)
def test_a_builder_has_the_classes_of_its_weights(
    stand: Stand, builder: str, categories: str, num_classes: int, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    state = halved(get_model(builder, num_classes=num_classes, **options).state_dict())
    assert any(value.dtype == torch.float16 for value in state.values())
    weights = get_model_weights(builder).DEFAULT
    stand(weights, state, categories)
    assert_holds(get_model(builder, weights="DEFAULT"), state)
    assert_holds(get_model(builder, weights=weights, num_classes=num_classes), state)
    with pytest.raises(InvalidArgumentError, match=f"has num_classes={num_classes}, got 91; build with weights=None"):
        get_model(builder, weights=weights, num_classes=91)


def test_a_file_of_another_model_is_refused(stand: Stand) -> None:
    url = stand(MobileNet_V3_Small_Weights.IMAGENET1K_V1, STATE, "shapes")
    with pytest.raises(InvalidWeightsError, match="does not fit MobileNetV3"):
        mobilenet_v3_small(weights="IMAGENET1K_V1")
    assert (download._REPOSITORY / url).exists()


# A catalog with one more weight set, read by the command line as by everything else; torch must not be loaded.
RUN = """
import sys
from pathlib import Path
from zoofleet import _catalog
from zoofleet._catalog import download
_catalog._DATA, download._REPOSITORY = Path(sys.argv.pop(1)), Path(sys.argv.pop(1))
from zoofleet._cli import app
try:
    app()
finally:
    assert not {"torch", "redis"} & sys.modules.keys()
"""


def test_the_command_line_lists_and_pulls_it(checkout: Path, tmp_path: Path) -> None:
    url = put(checkout / FOLDER, save(STATE))
    data = tmp_path / "data"
    shutil.copytree(ROOT / "src" / "zoofleet" / "_catalog", data)
    rows = json.loads((data / "weights.json").read_text())
    row = next(row for row in rows if row["builder"] == "mobilenet_v3_small")
    meta = row["meta"] | {"_metrics": {"Shapes": {"acc@1": 98.5}}, "categories": "shapes"}
    rows.append(row | {"member": "TEST_V1", "default": False, "url": url, "meta": meta})
    (data / "weights.json").write_text(json.dumps(rows))

    def models(*arguments: str | Path, mirror: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", RUN, data, checkout, "models", *arguments],
            env=os.environ | {"COLUMNS": "300", download.MIRROR: mirror},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    listed = models("list", "mobilenet_v3_small").stdout
    assert "acc@1 67.668" in listed and "IMAGENET1K_V1" in listed and "TEST_V1" in listed
    shown = models("show", "mobilenet_v3_small@TEST_V1").stdout
    assert url in shown and "acc@1 98.5 on Shapes" in shown
    model = "mobilenet_v3_small@TEST_V1"
    pulled = models("pull", model)
    assert pulled.returncode == 0 and pulled.stdout == f"{model} {checkout / url}\n", pulled.stderr
    copied = models("pull", model, "--dir", tmp_path / "mirror")
    copy = tmp_path / "mirror" / download.file_name(url)
    assert copied.returncode == 0 and copied.stdout == f"{model} {copy}\n", copied.stderr
    assert copy.read_bytes() == save(STATE)
    (checkout / url).unlink()
    failed = models("pull", model)
    assert failed.returncode == 1 and "comes with a clone" in failed.stderr
    mirrored = models("pull", model, mirror=str(copy.parent))
    assert mirrored.returncode == 0 and mirrored.stdout == f"{model} {download.cache_dir() / copy.name}\n"


def test_the_repositorys_files_are_in_the_catalog_and_small_in_all() -> None:
    paths = list((ROOT / FOLDER).glob("**/*.safetensors"))
    assert sum(path.stat().st_size for path in paths) <= MAX_BYTES
    assert sorted(path.relative_to(ROOT).as_posix() for path in paths) == sorted(row.url for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.builder}-{row.member}")
def test_a_set_of_the_repository_is_complete(row: _catalog.WeightsInfo) -> None:
    assert not row.default
    assert row.url.startswith(f"{FOLDER}/") and row.url.endswith(".safetensors")
    assert (ROOT / FOLDER / f"{row.builder}.md").is_file()
    path = download.fetch(row.url, check_hash=True)
    assert path == ROOT / row.url
    state = load_file(path)
    assert all(value.isfinite().all() for value in state.values())
    model = get_model(row.builder, weights=row.member)
    assert_holds(model, state)
    assert sum(parameter.numel() for parameter in model.parameters()) == row.meta["num_params"]
    listed = model_messages.get_model(models_pb2.GetModelRequest(name=f"models/{row.builder}"), [])
    published = next(one for one in listed.weight_sets if one.weight_set_id == row.member)
    assert published.url == row.url and published.metrics
    assert published.size_bytes == pytest.approx(path.stat().st_size, rel=0.01)
