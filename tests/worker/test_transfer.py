"""The way to the device and back, with a device that copies only when it must."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from zoofleet import _catalog
from zoofleet._catalog import ModelName
from zoofleet._media.images import decode_image
from zoofleet.models import transforms
from zoofleet.worker import WorkerConfig
from zoofleet.worker.runners import runner_type
from zoofleet.worker.transfer import HostTransfer, SlabTransfer


class LateEvent:
    """Comes once the device has done all that it was given before."""

    def __init__(self, device: LateTransfer) -> None:
        self._device = device
        self.position = device.given

    def query(self) -> bool:
        return self._device.done >= self.position

    def synchronize(self) -> None:
        while not self.query():
            self._device.step()


class LateTransfer(SlabTransfer):
    """A device on which copies happen as late as is allowed: data that is overwritten too early is seen to be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.given = 0
        self.done = 0
        self.allocated: list[int] = []
        self._steps: deque[Callable[[], object]] = deque()

    def give(self, work: Callable[[], object]) -> None:
        self.given += 1
        self._steps.append(work)

    def step(self) -> None:
        self._steps.popleft()()
        self.done += 1

    def finish(self) -> None:
        while self._steps:
            self.step()

    def allocate(self, nbytes: int) -> Tensor:
        self.allocated.append(nbytes)
        return torch.empty(nbytes, dtype=torch.uint8)

    def upload(self, tensor: Tensor) -> Tensor:
        copy = torch.empty_like(tensor)
        self.give(lambda: copy.copy_(tensor))
        return copy

    def download(self, tensor: Tensor, into: Tensor) -> None:
        self.give(lambda: into.copy_(tensor))

    def record(self) -> LateEvent:
        return LateEvent(self)

    def is_away(self, tensor: Tensor) -> bool:
        return True

    def release(self) -> None:
        pass


def test_slabs_are_not_overwritten_before_they_are_copied() -> None:
    transfer = LateTransfer()
    batches = [[torch.full((3, 4), 10 * b + i, dtype=torch.uint8) for i in range(4)] for b in range(20)]
    copies = [transfer.to_device(batch, torch.contiguous_format) for batch in batches]
    transfer.finish()
    assert all(torch.equal(copy, torch.stack(batch)) for copy, batch in zip(copies, batches, strict=True))
    assert len(transfer.allocated) == 6  # it waits rather than to take ever more


def test_slabs_are_used_again_and_grow() -> None:
    transfer = LateTransfer()
    for count in (1, 1, 1, 8, 8, 2):
        batch = [torch.zeros(5)] * count
        transfer.to_device(batch, torch.contiguous_format)
        transfer.finish()
    assert transfer.allocated == [20, 160]


def outputs(batch: int) -> list[dict[str, Tensor]]:
    """Outputs of all types and sizes."""
    return [
        {
            "labels": torch.tensor([batch, item], dtype=torch.int64),
            "mask": torch.full((1, 3), item, dtype=torch.uint8),
            "boxes": torch.full((item, 4), batch + 0.5),
            "kept": torch.tensor([True]),
            "scores": torch.arange(6.0).view(2, 3).T * batch,
        }
        for item in range(3)
    ]


def test_outputs_come_back_in_one_copy_and_stay_what_they_were() -> None:
    transfer = LateTransfer()
    waits = [transfer.to_host(outputs(batch)) for batch in range(3)]
    assert transfer.given == 3
    transfer.finish()  # the copies are over before anybody looks
    back = [wait() for wait in waits]
    later = [transfer.to_host(outputs(batch)) for batch in (7, 8, 9)]
    assert len(transfer.allocated) == 3  # those of the first three are used again
    for wait in later:
        wait()
    for batch in range(3):
        for got, expected in zip(back[batch], outputs(batch), strict=True):
            assert got.keys() == expected.keys()
            assert all(torch.equal(got[name], expected[name]) for name in expected)
            assert all(got[name].dtype == expected[name].dtype for name in expected)


PICTURES = [
    Image.fromarray(np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8))
    for height, width in ((131, 203), (400, 77))
]


class Network(torch.nn.Module):
    """What runners ask of a model beside its outputs."""

    @staticmethod
    def batch_key(height: int, width: int) -> tuple[int, int]:
        """Say what a detector would."""
        return height, width


@pytest.mark.parametrize("name", ["vgg11", "vit_b_16", "fcn_resnet50", "ssdlite320_mobilenet_v3_large", "raft_small"])
def test_bytes_that_a_device_looks_up_are_bit_equal_to_what_decoding_threads_make(name: str, media: Path) -> None:
    model = ModelName.parse(f"{name}@random")
    config = WorkerConfig(schedulers=(), device="cpu")
    (weights,) = (each for each in _catalog.weights(name) if each.default)
    preset: Any = transforms.preset(weights.transforms)()
    kind = runner_type(model)
    floats, shipped = (kind(model, Network(), preset, torch.device("cpu"), config) for _ in range(2))
    shipped._table = preset.levels()
    for picture in (*PICTURES, decode_image((media / "rocket.jpg").read_bytes(), 1 << 30)):
        pictures = [picture] * (2 if name == "raft_small" else 1)
        options = SimpleNamespace(num_flow_updates=1, score_threshold=0.5, max_detections=9)
        expected, got = (runner.prepare(iter(pictures), options) for runner in (floats, shipped))
        assert [inputs.dtype for inputs in got.inputs] == [torch.uint8] * len(pictures)
        assert 4 * got.nbytes == expected.nbytes
        assert got.key == expected.key
        for index in range(len(pictures)):
            batches = [runner._collate([item] * 3, index) for runner, item in ((floats, expected), (shipped, got))]
            assert torch.equal(*batches)
            assert batches[0].stride() == batches[1].stride()
        assert torch.equal(floats._to_device(expected), shipped._to_device(got))


def test_a_batch_on_the_host_is_what_stacking_gives() -> None:
    for count in (1, 5):
        tensors = [torch.rand(3, 6, 7) for _ in range(count)]
        batch = HostTransfer().to_device(tensors, torch.channels_last)
        assert torch.equal(batch, torch.stack(tensors))
        assert batch.is_contiguous(memory_format=torch.channels_last)
