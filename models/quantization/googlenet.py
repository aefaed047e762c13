"""GoogLeNet whose float form can be quantized to INT8."""

from __future__ import annotations

from typing import Any

from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import GoogLeNet_QuantizedWeights
from zoofleet.models._weights import WeightsEnum
from zoofleet.models.googlenet import GoogLeNet, GoogLeNet_Weights, drop_heads, following
from zoofleet.models.quantization._convert import quantized
from zoofleet.models.quantization._quantizable import QuantizableInception

__all__ = ["GoogLeNet_QuantizedWeights", "QuantizableGoogLeNet", "googlenet"]


class QuantizableGoogLeNet(QuantizableInception, GoogLeNet):
    """GoogLeNet with the marks between which activations are INT8.

    Args:
        **kwargs: options of `GoogLeNet` but `concat`, such as `num_classes`.
    """


@register_model(
    name="quantized_googlenet",
    weights=GoogLeNet_QuantizedWeights,
    unquantized=GoogLeNet_Weights,
    finish=(quantized("fbgemm"), drop_heads),
)
def googlenet(
    *,
    weights: WeightsEnum | None = None,
    aux_logits: bool | None = None,
    transform_input: bool | None = None,
    **kwargs: Any,
) -> QuantizableGoogLeNet:
    """Build GoogLeNet (13.0 M parameters, of which the auxiliary heads have 6.4 M), in float or in INT8.

    Args:
        aux_logits: whether the model has auxiliary heads, which were not trained in the published weights; None for
            those alone that have random weights.
        transform_input: rescale images from ImageNet's mean and standard deviation to -1..1; None for doing so with
            published weights, which need it.
        **kwargs: options of `GoogLeNet`: `num_classes`, `init_weights`, `dropout` and `dropout_aux`.
    """
    # Both published files have the heads, so they must be there to load them.
    heads = weights is not None or aux_logits is not False
    return QuantizableGoogLeNet(aux_logits=heads, **(kwargs | following(weights, transform_input)))
