"""DenseNet: memory for time, dropout, and the key names of old weight files."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from zoofleet.models.densenet import DenseNet


def _small(*, drop_rate: float = 0.0, memory_efficient: bool = False) -> DenseNet:
    torch.manual_seed(0)
    return DenseNet(8, (2, 3), 16, num_classes=5, drop_rate=drop_rate, memory_efficient=memory_efficient)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def test_recomputing_changes_neither_output_nor_gradients(images: Tensor) -> None:
    results = []
    for memory_efficient in (False, True):
        model = _small(memory_efficient=memory_efficient).train()
        saved = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal saved
            saved += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            logits = model(images)
        logits.square().sum().backward()
        results.append((saved, logits, [p.grad for p in model.parameters()]))
    (saved, *plain), (saved_efficiently, *efficient) = results
    torch.testing.assert_close(efficient, plain, rtol=0, atol=0)
    assert saved_efficiently < saved


def test_recomputing_leaves_evaluation_alone(images: Tensor) -> None:
    with torch.inference_mode():
        assert torch.equal(_small(memory_efficient=True).eval()(images), _small().eval()(images))


def test_files_with_dotted_names_load_strictly(images: Tensor) -> None:
    model = _small().eval()
    for buffer in model.buffers():
        buffer.add_(1)
    # As the published files are: no counters of batches either.
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer2.norm.1.weight" in old
    names = list(old)
    other = DenseNet(8, (2, 3), 16, num_classes=5).eval()
    other.load_state_dict(old)
    assert list(old) == names
    with torch.inference_mode():
        assert torch.equal(other(images), model(images))


def test_its_own_state_dict_keeps_the_new_names() -> None:
    model = _small()
    state = model.state_dict()
    assert not any(re.search(r"(norm|conv)\.\d", key) for key in state)
    model.load_state_dict(state)
