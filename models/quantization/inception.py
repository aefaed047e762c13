"""Inception v3 whose float form can be quantized to INT8."""

from __future__ import annotations

from typing import Any

from zoofleet.models._registry import register_model
from zoofleet.models._weight_sets import Inception_V3_QuantizedWeights
from zoofleet.models._weights import WeightsEnum
from zoofleet.models.googlenet import following
from zoofleet.models.inception import Inception3, Inception_V3_Weights, drop_head
from zoofleet.models.quantization._convert import quantized
from zoofleet.models.quantization._quantizable import QuantizableInception

__all__ = ["Inception_V3_QuantizedWeights", "QuantizableInception3", "inception_v3"]


class QuantizableInception3(QuantizableInception, Inception3):
    """Inception v3 with the marks between which activations are INT8.

    Args:
        **kwargs: options of `Inception3` but `concat`, such as `num_classes`.
    """


@register_model(
    name="quantized_inception_v3",
    weights=Inception_V3_QuantizedWeights,
    unquantized=Inception_V3_Weights,
    finish=(quantized("fbgemm"), drop_head),
)
def inception_v3(
    *,
    weights: WeightsEnum | None = None,
    quantize: bool = False,
    aux_logits: bool | None = None,
    transform_input: bool | None = None,
    **kwargs: Any,
) -> QuantizableInception3:
    """Build Inception v3 (27.2 M parameters, of which the auxiliary head has 3.3 M), in float or in INT8.

    Args:
        aux_logits: whether the model has the auxiliary head, which INT8 weights lack; None for one that has random
            weights alone.
        transform_input: rescale images from ImageNet's mean and standard deviation to -1..1; None for doing so with
            published weights, which need it.
        **kwargs: options of `Inception3`: `num_classes`, `init_weights` and `dropout`.

    Raises:
        InvalidWeightsError: the head is asked for with INT8 weights.
    """
    # The published float file has the head, so it must be there to load it; the INT8 file is without.
    heads = aux_logits is not False if weights is None else not quantize or bool(aux_logits)
    return QuantizableInception3(aux_logits=heads, **(kwargs | following(weights, transform_input)))
