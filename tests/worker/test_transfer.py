"""The way to the device and back, with a device that copies only when it must."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

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


def test_a_batch_on_the_host_is_what_stacking_gives() -> None:
    for count in (1, 5):
        tensors = [torch.rand(3, 6, 7) for _ in range(count)]
        batch = HostTransfer().to_device(tensors, torch.channels_last)
        assert torch.equal(batch, torch.stack(tensors))
        assert batch.is_contiguous(memory_format=torch.channels_last)
