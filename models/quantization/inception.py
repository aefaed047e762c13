"""Inception v3 whose float form can be quantized to INT8."""

from __future__ import annotations

from typing import Any

from zoofleet.models._registry import register_model
from zoofleet.models._weights import WeightsEnum, define_weights
from zoofleet.models.inception import Inception3, Inception_V3_Weights
from zoofleet.models.quantization._convert import finish
from zoofleet.models.quantization._quantizable import QuantizableInception

__all__ = ["Inception_V3_QuantizedWeights", "QuantizableInception3", "inception_v3"]


class QuantizableInception3(QuantizableInception, Inception3):
    """Inception v3 with the marks between which activations are INT8.

    Args:
        **kwargs: passed to `Inception3`, such as `num_classes`.
    """


Inception_V3_QuantizedWeights = define_weights("Inception_V3_QuantizedWeights")


@register_model(name="quantized_inception_v3", weights=Inception_V3_QuantizedWeights, unquantized=Inception_V3_Weights)
def inception_v3(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    quantize: bool = False,
    backend: str | None = None,
    aux_logits: bool | None = None,
    transform_input: bool | None = None,
    **kwargs: Any,
) -> QuantizableInception3:
    """Build Inception v3 (27.2 M parameters, of which the auxiliary head has 3.3 M), in float or in INT8.

    Args:
        weights: `Inception_V3_QuantizedWeights` with `quantize`, `Inception_V3_Weights` without, None for random ones.
        progress: show a progress line while downloading.
        quantize: convert to INT8.
        backend: the engine for INT8, of x86, fbgemm, qnnpack and onednn; None for the one that suits this processor.
        aux_logits: with the auxiliary head, which INT8 weights lack; None for one that has random weights alone.
        transform_input: passed to `Inception3`; None for what the weights need.
        **kwargs: passed to `Inception3`, such as `num_classes`.

    Raises:
        FailedPreconditionError: this processor or build of PyTorch lacks the engine.
        InvalidWeightsError: the head is asked for with INT8 weights.
    """
    published = weights is not None
    if published:
        kwargs["init_weights"] = False
    # The published float file has the head, so it must be there to load it; the INT8 file is without.
    model = QuantizableInception3(
        aux_logits=(not quantize or bool(aux_logits)) if published else aux_logits is not False,
        transform_input=published if transform_input is None else transform_input,
        **kwargs,
    )
    finish(model, weights, progress, quantize=quantize, backend=backend, layout="fbgemm")
    if published and not aux_logits:
        model.AuxLogits = None
    return model
