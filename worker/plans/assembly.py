"""Makes of a model the form in which a plan runs it, in the process that builds plans and in the worker alike."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils import _pytree as pytree

from zoofleet.worker.plans.int8 import load_int8
from zoofleet.worker.plans.regions import Region, arranged
from zoofleet.worker.plans.rungs import DTYPES, Rung

__all__ = ["Part", "assemble", "folds", "memory_bytes", "submodule"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, slots=True)
class Part:
    """What a plan has in the place of a region.

    Attributes:
        path: the region's submodule, empty for the whole model.
        folds: pairs of a convolution and the batch norm that is folded into it, by their names in the region.
        package: name of the folder of the compiled region, or of the file with the state of its INT8 form. None where
            it runs eagerly.
        int8_builder: the builder of the INT8 form. None where it is no INT8 form.
    """

    path: str
    folds: tuple[tuple[str, str], ...] = ()
    package: str | None = None
    int8_builder: str | None = None

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Part:
        """Make one of what `dataclasses.asdict` gave, after a way through JSON."""
        return cls(**{**fields, "folds": tuple((conv, norm) for conv, norm in fields["folds"])})


def folds(module: nn.Module, region: Region, run: Callable[[], Any]) -> tuple[tuple[str, str], ...]:
    """Find the batch norms whose input is a convolution's output, by running the model once.

    A convolution that something else reads too is found as well: the plan then strays, and is not taken.
    """
    inside = submodule(module, region.path)
    made: list[tuple[Tensor, str]] = []  # kept, so that no later tensor takes an id over
    calls: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []

    def convolved(name: str, output: Tensor) -> None:
        calls[name] = calls.get(name, 0) + 1
        made.append((output, name))

    def normalised(name: str, value: Tensor) -> None:
        calls[name] = calls.get(name, 0) + 1
        pairs.extend((conv, name) for output, conv in made if output is value)

    hooks = []
    for name, child in inside.named_modules():
        if isinstance(child, _CONVOLUTIONS):
            hooks.append(child.register_forward_hook(lambda _, __, output, name=name: convolved(name, output)))
        elif isinstance(child, _NORMS):
            hooks.append(child.register_forward_pre_hook(lambda _, given, name=name: normalised(name, given[0])))
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    # Modules that run several times, as heads over levels do, may have norms of their own for each.
    return tuple((conv, norm) for conv, norm in dict.fromkeys(pairs) if calls[conv] == 1 and calls[norm] == 1)


def submodule(module: nn.Module, path: str) -> nn.Module:
    """Return the submodule at a path; the module itself for an empty one."""
    return module.get_submodule(path) if path else module


def part_of(module: nn.Module, part: Part, rung: Rung) -> nn.Module:
    """Return a copy of a region with its batch norms folded, in the rung's type. What does not change is shared."""
    region = _shell(submodule(module, part.path))
    for conv, norm in part.folds:
        both: Any = region.get_submodule(conv), region.get_submodule(norm)
        fused: nn.Module = fuse_conv_bn_eval(*both)
        _replace(region, conv, fused.requires_grad_(False))
        _replace(region, norm, nn.Identity())
    return region if rung.dtype == "float32" else _converted(region, DTYPES[rung.dtype])


def assemble(module: nn.Module, rung: Rung, parts: Sequence[Part], folder: Path) -> nn.Module:
    """Return a form of a model that runs by a plan. It shares with the model what the plan leaves as it is.

    Args:
        module: the loaded model.
        rung: the plan.
        parts: what stands in the place of each region.
        folder: where the packages are.

    Raises:
        RuntimeError: a package cannot be loaded.
    """
    whole = _shell(module)
    for part in parts:
        form = _Form(_inner(module, rung, part, folder), rung)
        if not part.path:
            return form
        _replace(whole, part.path, form)
    return whole


def _inner(module: nn.Module, rung: Rung, part: Part, folder: Path) -> Callable[..., Any]:
    """Return what runs in the place of a region."""
    if part.package is None:
        return part_of(module, part, rung)
    if part.int8_builder is not None:
        return load_int8(part.int8_builder, folder / part.package)
    return _Package(folder / part.package, submodule(module, part.path))


def memory_bytes(form: nn.Module, module: nn.Module, packages: Iterable[Path]) -> int:
    """Return the bytes that a plan takes beside the model: its tensors that are not the model's, and its packages."""
    shared = {id(tensor) for tensor in _tensors(module)}
    own = {id(tensor): tensor.nbytes for tensor in _tensors(form) if id(tensor) not in shared}
    files = [file for path in packages for file in (path, *path.rglob("*")) if file.is_file()]
    return sum(own.values()) + sum(file.stat().st_size for file in files)


class _Form(nn.Module):
    """Runs a region in another type: floating-point inputs are converted to it, and outputs back to float32."""

    def __init__(self, inner: Callable[..., Any], rung: Rung) -> None:
        super().__init__()
        self._inner = inner
        self._dtype = DTYPES[rung.dtype]
        self._tf32 = rung.tf32

    def forward(self, *arguments: Any) -> Any:
        given = pytree.tree_map_only(Tensor, lambda value: _cast(value, self._dtype), arguments)
        if self._tf32:
            with _Tf32():
                outputs = self._inner(*given)
        else:
            outputs = self._inner(*given)
        return pytree.tree_map_only(Tensor, lambda value: _cast(value, torch.float32), outputs)


class _Tf32:
    """Lets CUDA multiply float32 in TF32 within a scope, which only the device's thread enters."""

    def __enter__(self) -> None:
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cuda.matmul.allow_tf32 = True

    def __exit__(self, *_: object) -> None:
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


class _Package:
    """A region compiled by AOTInductor, called as the region is.

    It is loaded by what `torch._inductor.aoti_load_package` has inside: the function itself would load Dynamo, which
    takes seconds of the interpreter's lock.

    Args:
        path: the package's folder.
        region: the region itself. It takes what has nothing in it, such as no boxes, for which nothing is compiled.
    """

    def __init__(self, path: Path, region: nn.Module) -> None:
        self._region = region
        self._loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
        _, outputs = self._loader.get_call_spec()
        self._outputs = pytree.treespec_loads(outputs)

    def __call__(self, *arguments: Any) -> Any:
        tensors = pytree.tree_leaves(arranged(arguments))
        if not all(tensor.numel() for tensor in tensors):
            return self._region(*pytree.tree_map_only(Tensor, Tensor.float, arguments))
        return pytree.tree_unflatten(self._loader.boxed_run(tensors), self._outputs)


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _shell(module: nn.Module) -> nn.Module:
    """Copy a module's structure, with the same tensors."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in _tensors(module)})


def _converted(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert the floating-point tensors of a shell, each into a new tensor, so that the model keeps its own."""
    for child in module.modules():
        for name, value in child.named_parameters(recurse=False):
            setattr(child, name, nn.Parameter(_cast(value.detach(), dtype), requires_grad=False))
        for name, buffer in child.named_buffers(recurse=False):
            setattr(child, name, _cast(buffer, dtype))
    return module


def _replace(module: nn.Module, path: str, child: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent) if parent else module, name, child)
