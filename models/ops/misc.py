"""Layers that several architectures share.

Letters in shapes: N images, C channels, H and W cells of a feature map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoofleet.models._layers import MLP, Conv2dNormActivation, Conv3dNormActivation, Permute, SqueezeExcitation

__all__ = [
    "MLP",
    "Conv2dNormActivation",
    "Conv3dNormActivation",
    "FrozenBatchNorm2d",
    "Permute",
    "SqueezeExcitation",
]


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation whose statistics and affine parameters are buffers: neither training nor data change them.

    Args:
        num_features: number of channels C.
        eps: added to the variance, so that it can be divided by.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Weights are trained and published with nn.BatchNorm2d, which counts batches.
        state_dict.pop(f"{prefix}num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise feature maps (N, C, H, W), floating, to the same shape and dtype."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()  # (C,)
        shift = self.bias - self.running_mean * scale  # (C,)
        return x * scale[:, None, None] + shift[:, None, None]

    def extra_repr(self) -> str:
        """Return what `print` shows of the module: its channels and epsilon."""
        return f"{len(self.weight)}, eps={self.eps}"
