"""What the float form of every quantized model has.

In shapes, N is the number of images, and H and W are the height and width of an image or a map.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from torch import Tensor, nn
from torch.ao import quantization
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization import DeQuantStub, QuantStub

__all__ = ["Quantizable", "QuantizableInception", "without_expected_warnings"]

# PyTorch announces the end of eager quantization in four ways, for which the constraints file pins a release that has
# it; some sums and heads of a published layout are never used in eval mode; and ranges of 8 bits are meant on onednn.
_EXPECTED_WARNINGS: Final = (
    "torch.ao.quantization is deprecated",
    "torch.quantize_per_tensor",
    "TypedStorage is deprecated",
    "must run observer before calling calculate_qparams",
    "Default qconfig of oneDNN backend",
    "Please use quant_min and quant_max to specify the range for observers",
)


class Quantizable(nn.Module):
    """Stands before a float classifier among the bases, and marks where activations become INT8 and float again.

    Attributes:
        quant: observes the input; INT8 after conversion.
        dequant: gives float logits again.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.quant = QuantStub()
        self.dequant = DeQuantStub()

    def forward(self, x: Any) -> Any:
        """Logits of a batch of images: float (N, 3, H, W) to float (N, num_classes)."""
        return self.dequant(super().forward(self.quant(x)))

    def fuse_model(self, is_qat: bool | None = None) -> None:
        """Join each convolution with the batch norm and ReLU after it, in place.

        In an `nn.Sequential` the children's order says which follow each other. The class of any other module that has
        such runs lists them by the children's names, as `fused`.

        Args:
            is_qat: keep the batch norms as parts of their own, for training with rounding; None for doing so in
                training mode.
        """
        is_qat = self.training if is_qat is None else is_qat
        join = quantization.fuse_modules_qat if is_qat else quantization.fuse_modules
        for module in list(self.modules()):
            for names in _runs(module) if isinstance(module, nn.Sequential) else getattr(module, "fused", ()):
                with without_expected_warnings():
                    join(module, list(names), inplace=True)  # type: ignore[no-untyped-call]


class QuantizableInception(Quantizable):
    """A network of inception blocks: branches are joined at scales of their own, and inputs rescaled in float."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(concat=FloatFunctional, **kwargs)

    def rescale(self, x: Tensor) -> Tensor:
        """(N, 3, H, W), as `forward` takes it, to the scale of the weights, in INT8 after conversion."""
        quantized: Tensor = self.quant(super().rescale(x))  # type: ignore[misc]
        return quantized

    def forward(self, x: Tensor) -> Any:
        """Logits of a batch of images, float (N, 3, H, W); what the float model returns, in training too."""
        out = super(Quantizable, self).forward(x)  # past Quantizable's own: `rescale` is what quantizes the input here
        # In training, which is always in float, auxiliary heads give logits too.
        return self.dequant(out) if isinstance(out, Tensor) else out


def _runs(module: nn.Sequential) -> list[list[str]]:
    """Names of the children that follow each other as convolution, batch norm and, in places, ReLU."""
    names = [name for name, _ in module.named_children()]
    kinds = [type(child) for child in module.children()]
    return [
        names[i : i + 3] if kinds[i + 2 : i + 3] == [nn.ReLU] else names[i : i + 2]
        for i in range(len(names))
        if kinds[i : i + 2] == [nn.Conv2d, nn.BatchNorm2d]
    ]


@contextmanager
def without_expected_warnings() -> Iterator[None]:
    """Silence what PyTorch says about every conversion."""
    with warnings.catch_warnings():
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield
