"""Layers that several architectures share."""

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
    """`nn.BatchNorm2d` in eval mode with statistics and affine parameters as buffers.

    Args:
        num_features: channels C.
        eps: added to the variance.
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
        """Normalise (N, C, H, W), floating; the same shape and dtype come back."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()  # (C,)
        shift = self.bias - self.running_mean * scale  # (C,)
        return x * scale[:, None, None] + shift[:, None, None]

    def extra_repr(self) -> str:
        """The arguments, for repr."""
        return f"{len(self.weight)}, eps={self.eps}"
