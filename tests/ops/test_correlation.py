"""`correlation_lookup` against plain loops and against RAFT's volume."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from zoofleet.errors import InvalidArgumentError
from zoofleet.models.ops import _reference, correlation_lookup
from zoofleet.models.optical_flow import LinearCorrBlock, raft_small
from zoofleet.models.optical_flow.raft import CorrBlock

INF, NAN = math.inf, math.nan


def random_inputs(
    generator: torch.Generator, n: int = 2, c: int = 5, size1: tuple[int, int] = (3, 4), size2: tuple[int, int] = (4, 5)
) -> tuple[Tensor, Tensor, Tensor]:
    """Positions reach beyond the second map; float64."""
    features1 = torch.randn(n, *size1, c, generator=generator, dtype=torch.float64)
    features2 = torch.randn(n, *size2, c, generator=generator, dtype=torch.float64)
    coords = torch.rand(n, 2, *size1, generator=generator, dtype=torch.float64) * (max(size2) + 6) - 3
    return features1, features2, coords


def look_up(
    inputs: Sequence[Tensor], radius: int, by: Callable[[Tensor, Tensor, Tensor, int], Tensor] = correlation_lookup
) -> Tensor:
    features1, features2, coords = inputs
    return by(features1, features2, coords, radius)


@pytest.fixture(params=[1, 4])
def threads(request: pytest.FixtureRequest) -> object:
    """Runs the test with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("radius", [0, 1, 3])
@pytest.mark.parametrize("channels", [0, 1, 5, 64, 70])
def test_equals_reference(channels: int, radius: int, generator: torch.Generator) -> None:
    inputs = tuple(tensor.requires_grad_() for tensor in random_inputs(generator, c=channels))
    expected = look_up(inputs, radius, _reference.correlation_lookup)
    found = look_up(inputs, radius)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    gradients = torch.autograd.grad(found, inputs, weights)
    for gradient, other in zip(gradients, torch.autograd.grad(expected, inputs, weights), strict=True):
        torch.testing.assert_close(gradient, other)
    single = look_up([tensor.detach().float() for tensor in inputs], radius)
    torch.testing.assert_close(single, expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("radius", [0, 2])
def test_gradcheck(radius: int, generator: torch.Generator) -> None:
    inputs = tuple(tensor.requires_grad_() for tensor in random_inputs(generator, c=3))
    assert torch.autograd.gradcheck(lambda *each: look_up(each, radius), inputs)


def test_threads_change_nothing(generator: torch.Generator) -> None:
    inputs = [tensor.float().requires_grad_() for tensor in random_inputs(generator, c=37, size1=(9, 8))]
    results = []
    before = torch.get_num_threads()
    for threads in (1, 4):
        torch.set_num_threads(threads)
        found = look_up(inputs, 2)
        results.append((found, *torch.autograd.grad(found, inputs, torch.ones_like(found))))
    torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("position", [NAN, INF, -INF, 1e30, -1e30, 1e9, 12.0, -8.0])
@pytest.mark.parametrize("axis", [0, 1])
def test_position_far_away_or_not_finite_gives_zeros(position: float, axis: int, generator: torch.Generator) -> None:
    features1, features2, coords = random_inputs(generator, n=1)
    coords[:] = 2.0
    coords[0, axis, 1, 1] = position
    inputs = tuple(tensor.requires_grad_() for tensor in (features1, features2, coords))
    found = look_up(inputs, 4)
    assert not found[0, :, 1, 1].any()
    assert found[0, :, 0, 0].any()
    for gradient in torch.autograd.grad(found.sum(), inputs):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("position", [-1.0, -0.5, 0.0, 1.0, 3.0, 3.5, 4.0])
def test_positions_on_pixels_and_borders(position: float, generator: torch.Generator) -> None:
    features1, features2, coords = random_inputs(generator)
    coords[:] = position
    expected = _reference.correlation_lookup(features1, features2, coords, 1)
    torch.testing.assert_close(correlation_lookup(features1, features2, coords, 1), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_is_computed_in_float32(dtype: torch.dtype, generator: torch.Generator) -> None:
    half = [tensor.to(dtype).requires_grad_() for tensor in random_inputs(generator)]
    exact = [tensor.detach().float().requires_grad_() for tensor in half]
    found, expected = look_up(half, 2), look_up(exact, 2)
    assert torch.equal(found, expected.to(dtype))
    weights = torch.ones_like(found)
    gradients = torch.autograd.grad(found, half, weights)
    for gradient, other in zip(gradients, torch.autograd.grad(expected, exact, weights.float()), strict=True):
        assert torch.equal(gradient, other.to(dtype))


def test_odd_strides(generator: torch.Generator) -> None:
    features1, features2, coords = random_inputs(generator)
    expected = correlation_lookup(features1, features2, coords, 2)
    planes = [tensor.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1) for tensor in (features1, features2)]
    strided = coords.repeat_interleave(2, 3)[..., ::2]
    assert torch.equal(look_up([*planes, strided], 2), expected)


@pytest.mark.parametrize(("n", "size1", "size2"), [(0, (3, 4), (4, 5)), (1, (0, 4), (4, 5)), (1, (3, 4), (0, 5))])
def test_empty_maps(n: int, size1: tuple[int, int], size2: tuple[int, int], generator: torch.Generator) -> None:
    inputs = tuple(tensor.requires_grad_() for tensor in random_inputs(generator, n=n, size1=size1, size2=size2))
    found = look_up(inputs, 1)
    assert found.shape == (n, 9, *size1) and not found.any()
    for gradient in torch.autograd.grad(found.sum(), inputs):
        assert not gradient.any()


def test_equals_the_volume(generator: torch.Generator) -> None:
    features = torch.randn(2, 2, 128, 36, 52, generator=generator, requires_grad=True)
    coords = torch.rand(2, 2, 36, 52, generator=generator) * 70 - 10
    results = []
    for block in (CorrBlock(num_levels=4, radius=3), LinearCorrBlock(num_levels=4, radius=3)):
        found = block.look_up(block.build_pyramid(*features), coords)
        results.append((found, *torch.autograd.grad(found.square().mean(), features)))
    (volume, volume_gradient), (linear, linear_gradient) = results
    assert linear.shape == volume.shape
    assert (linear - volume).abs().max() < 1e-4
    torch.testing.assert_close(linear_gradient, volume_gradient, rtol=1e-3, atol=1e-8)


@torch.inference_mode()
def test_raft_gives_the_same_flow(generator: torch.Generator) -> None:
    images = torch.rand(2, 1, 3, 128, 136, generator=generator) * 2 - 1
    flows = []
    for block in (CorrBlock(num_levels=4, radius=3), LinearCorrBlock(num_levels=4, radius=3)):
        torch.manual_seed(0)
        flows.append(raft_small(corr_block=block).eval()(*images, num_flow_updates=4)[-1])
    torch.testing.assert_close(*flows, rtol=1e-4, atol=1e-4)


_PEAK_OF_RAFT_LARGE = """
import pathlib, torch
from zoofleet.models.optical_flow import LinearCorrBlock, raft_large
# getrusage's peak goes on from that of the program that started this one.
peak = lambda: int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
model = raft_large(corr_block=LinearCorrBlock(num_levels=4, radius=4)).eval()
image = torch.rand(1, 3, 720, 1280)
before = peak()
with torch.inference_mode():
    model(image, image.flip(3), num_flow_updates=2)
print(peak() - before)
"""


def test_raft_large_fits_in_2_gib() -> None:
    # A process of its own, since the peak is the process's.
    done = subprocess.run([sys.executable, "-c", _PEAK_OF_RAFT_LARGE], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 2 << 30


MAP, COORDS = torch.zeros(1, 3, 4, 2), torch.zeros(1, 2, 3, 4)
BAD: list[tuple[str, Callable[[], Tensor]]] = [
    (r"features1 are \(3, 4, 2\)", lambda: correlation_lookup(MAP[0], MAP, COORDS, 1)),
    (r"features1 are \(1, 3, 4, 2\) torch.int64", lambda: correlation_lookup(MAP.long(), MAP, COORDS, 1)),
    (r"features2 are \(1, 3, 4, 1\)", lambda: correlation_lookup(MAP, MAP[..., :1], COORDS, 1)),
    (r"features2 are \(0, 3, 4, 2\)", lambda: correlation_lookup(MAP, MAP[:0], COORDS, 1)),
    (r"coords are \(1, 1, 3, 4\)", lambda: correlation_lookup(MAP, MAP, COORDS[:, :1], 1)),
    (r"coords are \(1, 2, 3, 4\) torch.int64", lambda: correlation_lookup(MAP, MAP, COORDS.long(), 1)),
    (r"radius is -1", lambda: correlation_lookup(MAP, MAP, COORDS, -1)),
    (r"radius is 9", lambda: correlation_lookup(MAP, MAP, COORDS, 9)),
]


@pytest.mark.parametrize(("message", "call"), BAD)
def test_bad_arguments(message: str, call: Callable[[], Tensor]) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        call()


def test_opcheck(generator: torch.Generator) -> None:
    forward = torch.ops.zoofleet.correlation_lookup.default
    backward = torch.ops.zoofleet.correlation_lookup_backward.default
    for dtype in (torch.float64, torch.float32, torch.float16):
        inputs = tuple(tensor.to(dtype).requires_grad_() for tensor in random_inputs(generator))
        torch.library.opcheck(forward, (*inputs, 1))
        detached = tuple(tensor.detach() for tensor in inputs)
        torch.library.opcheck(backward, (torch.ones(2, 9, 3, 4, dtype=dtype), *detached, 1))
