"""All published files: pulled from a mirror by their names, once, refused when wrong, and loaded from the cache.

Nobody can make up content with the hash that a published name carries. So the names are tested with content that must
be refused, and all the rest with a catalog in whose URLs the digits are those of what is made up here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models import parts
from tests.models.published import state_of
from tests.weights_server import Hub, serving
from torch import Tensor
from torch.utils import _pytree as pytree

from zoofleet import _catalog
from zoofleet._catalog import WeightsInfo, download
from zoofleet.models import WeightsEnum, get_model, get_weight

ROWS = [row for row in _catalog.all_weights() if not download.in_repository(row.url)]


def _groups() -> list[Any]:
    """The rows by task, those of large builders apart, as parameters of a test."""
    groups: dict[tuple[str, bool], list[WeightsInfo]] = {}
    for row in ROWS:
        groups.setdefault((_catalog.builders()[row.builder].task, parts.in_sample(row.builder)), []).append(row)
    return [
        pytest.param(rows, marks=[] if sample else pytest.mark.rest, id=task if sample else f"{task}-rest")
        for (task, sample), rows in sorted(groups.items())
    ]


GROUPS = _groups()

WHOLE = {
    "squeezenet1_1",
    "ssdlite320_mobilenet_v3_large",
    "raft_small",
    "quantized_shufflenet_v2_x0_5",
    "quantized_mobilenet_v2",
    "lraspp_mobilenet_v3_large",
    "s3d",
}
"""A small one of each task, and of either INT8 layout, whose numbers are loaded; of others keys and shapes are."""

DATA = Path(_catalog.__file__).parent

PULL = """
import sys
from pathlib import Path
from zoofleet import _catalog
_catalog._DATA = Path(sys.argv.pop(1))
from zoofleet._cli import app
app()
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A mirror, beside an empty cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as hub:
        monkeypatch.setenv(download.MIRROR, hub.url)
        yield hub


def pull(rows: Sequence[WeightsInfo], data: Path = DATA) -> subprocess.CompletedProcess[str]:
    names = [f"{row.builder}@{row.member}" for row in rows]
    return subprocess.run(
        [sys.executable, "-c", PULL, data, "models", "pull", *names],
        env=os.environ | {"COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def digits(name: str) -> str:
    """Those in a file's name with which its SHA-256 begins."""
    match = download.HASH_PREFIX.search(name)
    assert match is not None
    return match[1]


def kept() -> list[str]:
    return sorted(path.name for path in download.cache_dir().iterdir() if path.suffix != ".lock")


def test_every_published_name_is_asked_for_once_and_other_content_refused(hub: Hub) -> None:
    names = [row.url.rpartition("/")[2] for row in ROWS]
    hub.files = {f"/{name}": name.encode() for name in names}
    run = pull(ROWS)
    assert sorted(hub.requests) == sorted((f"/{name}", None) for name in names)
    assert run.returncode == 1 and run.stdout == ""
    for row, name in zip(ROWS, names, strict=True):
        found = hashlib.sha256(name.encode()).hexdigest()
        said = f"error: {row.builder}@{row.member}: {name} has the SHA-256 {found}, not {digits(name)}...; it came from"
        assert said in run.stderr
    assert kept() == []


def offer(hub: Hub, row: WeightsInfo, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """Put a state dict on the mirror under a weight set's name with its own digits; gives the URL that it then has."""
    name = row.url.rpartition("/")[2]
    published = hub.publish(state, stem=name.removesuffix(f"{digits(name)}.pth")[:-1])
    hub.files[f"/{published}"] = hub.files.pop(f"/models/{published}")
    url = row.url.replace(name, published)
    weights = get_weight(f"{row.enum}.{row.member}")
    monkeypatch.setattr(weights, "_value_", dataclasses.replace(weights.value, url=url))
    return url


def content_of(row: WeightsInfo, weights: WeightsEnum) -> dict[str, Any]:
    """The set's layout; of an INT8 set that is not loaded whole something short, since it takes long to make."""
    int8 = weights.meta.get("backend") is not None
    return {row.member: torch.ones(1)} if int8 and row.builder not in WHOLE else state_of(weights, row.builder)


def load(row: WeightsInfo, weights: WeightsEnum, state: dict[str, Any]) -> None:
    """Build the model with the set's weights, for most without memory for them, which compares keys and shapes."""
    options = {"quantize": True} if weights.meta.get("backend") else {}
    if row.builder in WHOLE:
        loaded = get_model(row.builder, weights=weights, progress=False, **options).state_dict()
        assert list(loaded) == list(state)
        for one, two in zip(pytree.tree_leaves(dict(loaded)), pytree.tree_leaves(dict(state)), strict=True):
            assert torch.equal(one, two) if isinstance(one, Tensor) else one == two, row.builder
    elif options:
        assert weights.get_state_dict(progress=False).keys() == state.keys()
    else:
        with torch.device("meta"):
            get_model(row.builder, weights=weights, progress=False)


@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter", "ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("rows", GROUPS)
def test_every_file_is_pulled_once_and_loaded_from_the_cache(
    rows: list[WeightsInfo], hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {}
    urls = {}
    for row in rows:
        weights = get_weight(f"{row.enum}.{row.member}")
        contents[row.url] = content_of(row, weights)
        urls[row.url] = offer(hub, row, contents[row.url], monkeypatch)
    data = tmp_path / "data"
    shutil.copytree(DATA, data)
    catalog = json.loads((data / "weights.json").read_text())
    (data / "weights.json").write_text(json.dumps([row | {"url": urls.get(row["url"], row["url"])} for row in catalog]))

    for _ in range(2):
        run = pull(rows, data)
        assert run.returncode == 0, run.stderr
        assert sorted(hub.requests) == [(path, None) for path in sorted(hub.files)]
        assert {f"/{name}" for name in kept()} == hub.files.keys()
    for path, body in hub.files.items():
        assert (download.cache_dir() / path[1:]).read_bytes() == body

    for row in rows:
        load(row, get_weight(f"{row.enum}.{row.member}"), contents[row.url])
    assert len(hub.requests) == len(rows)
