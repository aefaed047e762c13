"""The weights loader against a real HTTP server that cuts, lies and redirects."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tests.weights_server import Hub, serving
from torch import nn

from zoofleet import _catalog, _download
from zoofleet.errors import InvalidArgumentError, InvalidWeightsError, WeightsUnavailableError
from zoofleet.models import _hub
from zoofleet.models._weights import Weights, WeightsEnum
from zoofleet.models.transforms import ObjectDetection


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv(_download.MIRROR, raising=False)
    monkeypatch.setattr(_download, "_BACKOFF_S", 0.0)
    return tmp_path / "torch" / "hub" / "checkpoints"


STATE = {"weight": torch.arange(12.0).reshape(4, 3), "bias": torch.ones(4)}


def get(url: str) -> dict[str, Any]:
    return _hub.load_state_dict(url, progress=False, check_hash=True)


def visible(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock") if folder.exists() else []


def test_a_file_is_downloaded_once_and_kept_under_the_name_torch_hub_gives_it(hub: Hub, cache: Path) -> None:
    name = hub.publish(STATE)
    for _ in range(2):
        torch.testing.assert_close(get(hub.at(name)), STATE)
    assert hub.requests == [(f"/models/{name}", None)]
    assert visible(cache) == [name]
    torch.hub.load_state_dict_from_url(hub.at(name), progress=False, check_hash=True)
    assert len(hub.requests) == 1


def test_a_wrong_byte_is_refused_and_leaves_the_cache_as_it_was(hub: Hub, cache: Path) -> None:
    name = hub.publish(STATE)
    body = bytearray(hub.files[f"/models/{name}"])
    body[len(body) // 2] ^= 1
    hub.files[f"/models/{name}"] = bytes(body)
    with pytest.raises(InvalidWeightsError, match=r"SHA-256 .*it came from http"):
        get(hub.at(name))
    assert visible(cache) == []


def test_a_bad_cached_file_is_named_and_left_alone(hub: Hub, cache: Path) -> None:
    name = hub.publish(STATE)
    cache.mkdir(parents=True)
    (cache / name).write_bytes(b"half a file")
    with pytest.raises(InvalidWeightsError, match=r"delete .* to fetch it again"):
        get(hub.at(name))
    assert (cache / name).read_bytes() == b"half a file" and hub.requests == []


def test_a_cut_connection_is_taken_up_where_it_ended(hub: Hub) -> None:
    name = hub.publish(STATE)
    hub.cuts = [100, 50]
    torch.testing.assert_close(get(hub.at(name)), STATE)
    assert [wanted for _, wanted in hub.requests] == [None, "bytes=100-", "bytes=150-"]


def test_a_server_without_ranges_starts_over(hub: Hub) -> None:
    name = hub.publish(STATE)
    hub.cuts, hub.ranges = [100], False
    torch.testing.assert_close(get(hub.at(name)), STATE)
    assert [wanted for _, wanted in hub.requests] == [None, "bytes=100-"]


def test_attempts_are_bounded(hub: Hub, cache: Path) -> None:
    name = hub.publish(STATE)
    hub.cuts = [1] * 50
    with pytest.raises(WeightsUnavailableError, match=r"cannot fetch http.*ended after 6 of \d+ bytes"):
        get(hub.at(name))
    assert len(hub.requests) == 6 and visible(cache) == [f".{name}.partial"]


def test_what_an_earlier_run_received_is_taken_up(hub: Hub, cache: Path) -> None:
    name = hub.publish(STATE)
    hub.cuts = [100, 0, 0, 0, 0, 0]
    with pytest.raises(WeightsUnavailableError):
        get(hub.at(name))
    torch.testing.assert_close(get(hub.at(name)), STATE)
    assert hub.requests[-1] == (f"/models/{name}", "bytes=100-")
    assert visible(cache) == [name]


@pytest.mark.parametrize("length", [10, 1_000_000], ids=["shorter", "longer"])
def test_the_beginning_of_another_file_is_thrown_away(hub: Hub, cache: Path, length: int) -> None:
    name = hub.publish(STATE)
    cache.mkdir(parents=True)
    (cache / f".{name}.partial").write_bytes(b"x" * length)
    torch.testing.assert_close(get(hub.at(name)), STATE)
    assert [wanted for _, wanted in hub.requests] == [f"bytes={length}-", None]
    assert visible(cache) == [name]


def test_a_file_that_lacks_only_its_name_gets_it(hub: Hub, cache: Path) -> None:
    name = hub.publish(STATE)
    cache.mkdir(parents=True)
    body = hub.files[f"/models/{name}"]
    (cache / f".{name}.partial").write_bytes(body)
    torch.testing.assert_close(get(hub.at(name)), STATE)
    assert [wanted for _, wanted in hub.requests] == [f"bytes={len(body)}-"]


def test_an_overloaded_server_is_asked_again(hub: Hub) -> None:
    name = hub.publish(STATE)
    hub.status = 503
    with pytest.raises(WeightsUnavailableError, match="503"):
        get(hub.at(name))
    assert len(hub.requests) == 6


def test_a_missing_file_is_asked_for_once(hub: Hub, cache: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match=r"cannot fetch http://.*/models/net-01234567.pth: .*404"):
        get(hub.at("net-01234567.pth"))
    assert len(hub.requests) == 1 and visible(cache) == []


def test_nobody_listening_fails_at_once() -> None:
    with pytest.raises(WeightsUnavailableError, match="refused"):
        get("http://127.0.0.1:1/net-01234567.pth")


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1:1/x", "data:,x"])
def test_redirects_lead_to_http_only(hub: Hub, target: str) -> None:
    hub.redirect = target
    with pytest.raises(WeightsUnavailableError):
        get(hub.at("net-01234567.pth"))


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/net-01234567.pth", "data:net-01234567.pth"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(InvalidArgumentError, match="http, https or file"):
        get(url)


FETCH = """
import sys
from zoofleet import _download
assert "torch" not in sys.modules
print("ready", flush=True)
print(_download.fetch(sys.argv[1], _download.cache_dir(), check_hash=True))
"""


def _fetching(url: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", FETCH, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def test_of_two_processes_one_downloads(hub: Hub, cache: Path) -> None:
    name = hub.publish(STATE)
    hub.go_on.clear()
    with _fetching(hub.at(name)) as first:
        assert hub.arrived.wait(60)
        with _fetching(hub.at(name)) as second:
            hub.go_on.set()
            answers = [process.communicate(timeout=60)[0].strip() for process in (first, second)]
    assert answers == [str(cache / name)] * 2 and len(hub.requests) == 1


def test_a_killed_download_is_done_again_by_the_next(hub: Hub, cache: Path) -> None:
    name = hub.publish(STATE)
    hub.go_on.clear()
    with _fetching(hub.at(name)) as process:
        assert hub.arrived.wait(60)
        process.kill()
    assert visible(cache) == [f".{name}.partial"]
    hub.go_on.set()
    torch.testing.assert_close(get(hub.at(name)), STATE)
    assert visible(cache) == [name]


@pytest.mark.parametrize("write", [str, Path.as_uri], ids=["directory", "file"])
def test_a_mirror_may_be_a_directory(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], str]
) -> None:
    mirror = tmp_path / "a mirror"
    mirror.mkdir()
    name = hub.publish(STATE)
    (mirror / name).write_bytes(hub.files[f"/models/{name}"])
    monkeypatch.setenv(_download.MIRROR, write(mirror))
    torch.testing.assert_close(get(f"https://weights.invalid/models/{name}"), STATE)
    with pytest.raises(WeightsUnavailableError, match=r"cannot read .*other-01234567.pth"):
        get("https://weights.invalid/other-01234567.pth")
    assert hub.requests == []


def test_a_mirror_may_be_a_base_url(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    name = hub.publish(STATE)
    monkeypatch.setenv(_download.MIRROR, f"{hub.url}/models/")
    torch.testing.assert_close(get(f"https://weights.invalid/{name}"), STATE)


def test_a_mirrors_files_are_checked_too(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files["/net-01234567.pth"] = b"something else"
    monkeypatch.setenv(_download.MIRROR, hub.url)
    with pytest.raises(InvalidWeightsError, match=r"not 01234567"):
        get("https://weights.invalid/net-01234567.pth")


class _Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("state", [{"weight": _Touch("ran")}, ["a", "list"], {1: torch.ones(1)}])
def test_only_tensors_by_name_are_read(
    hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    name = hub.publish(state)
    with pytest.raises(InvalidWeightsError, match="tensors"):
        get(hub.at(name))
    assert not (tmp_path / "ran").exists() and visible(cache) == []
    (cache / name).write_bytes(hub.files[f"/models/{name}"])  # as another program may have left it
    with pytest.raises(InvalidWeightsError, match="tensors"):
        get(hub.at(name))
    assert visible(cache) == [name]


def test_bytes_that_are_no_file_of_tensors_are_refused(hub: Hub) -> None:
    name = f"net-{hashlib.sha256(b'hello').hexdigest()[:8]}.pth"
    hub.files[f"/models/{name}"] = b"hello"
    with pytest.raises(InvalidWeightsError, match=name):
        get(hub.at(name))


def test_a_cache_that_cannot_be_written_is_named(hub: Hub, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("not a folder")
    with pytest.raises(WeightsUnavailableError, match="checkpoints"):
        get(hub.at(hub.publish(STATE)))


def published(hub: Hub, state: Any) -> WeightsEnum:
    value = Weights(hub.at(hub.publish(state)), ObjectDetection, {})
    made = WeightsEnum("Net_Weights", {"V1": value})  # type: ignore[call-arg]
    return cast("type[WeightsEnum]", made)["V1"]


def test_weights_are_loaded_to_the_letter(hub: Hub) -> None:
    model = nn.Linear(3, 4)
    _hub.load_weights(model, published(hub, STATE), progress=False)
    torch.testing.assert_close(dict(model.state_dict()), STATE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": torch.ones(4)}, "1 unexpected keys, the first scale"),
        ({"bias": torch.ones(5)}, r"bias.*\[5\].*\[4\]"),
    ],
)
def test_the_first_differences_are_named(hub: Hub, cache: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidWeightsError, match=rf"(?s)Net_Weights\.V1 does not fit Linear: .*{message}"):
        _hub.load_weights(nn.Linear(3, 4), published(hub, STATE | change), progress=False)
    assert visible(cache) == []


def test_missing_keys_are_named(hub: Hub) -> None:
    with pytest.raises(InvalidWeightsError, match="1 missing keys, the first bias"):
        _hub.load_weights(nn.Linear(3, 4), published(hub, {"weight": STATE["weight"]}), progress=False)


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"TORCH_HOME": "/t"}, "/t/hub/checkpoints"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/torch/hub/checkpoints"),
        ({}, "/home/x/.cache/torch/hub/checkpoints"),
    ],
)
def test_the_cache_is_torch_hubs_with_and_without_torch(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], folder: str
) -> None:
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"HOME": "/home/x"} | environment).items():
        monkeypatch.setenv(name, value)
    assert _download.cache_dir() == Path(folder)
    monkeypatch.delitem(sys.modules, "torch")
    assert _download.cache_dir() == Path(folder)


def test_progress_names_the_url(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    url = hub.at(hub.publish(STATE))
    _hub.load_state_dict(url, progress=True, check_hash=True)
    assert capfd.readouterr().err == f"Downloading {url}\n"


def test_every_published_file_carries_its_hash_and_a_name_of_its_own() -> None:
    names = {row.url: row.url.rpartition("/")[2] for row in _catalog.all_weights()}
    assert all(_download.HASH_PREFIX.search(name) for name in names.values())
    assert len(set(names.values())) == len(names)
