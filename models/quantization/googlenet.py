"""GoogLeNet whose float form can be quantized to INT8."""

from __future__ import annotations

from typing import Any

from zoofleet.models._registry import register_model
from zoofleet.models._weights import WeightsEnum, define_weights
from zoofleet.models.googlenet import GoogLeNet, GoogLeNet_Weights
from zoofleet.models.quantization._convert import finish
from zoofleet.models.quantization._quantizable import QuantizableInception

__all__ = ["GoogLeNet_QuantizedWeights", "QuantizableGoogLeNet", "googlenet"]


class QuantizableGoogLeNet(QuantizableInception, GoogLeNet):
    """GoogLeNet with the marks between which activations are INT8.

    Args:
        **kwargs: passed to `GoogLeNet`, such as `num_classes`.
    """


GoogLeNet_QuantizedWeights = define_weights("GoogLeNet_QuantizedWeights")


@register_model(name="quantized_googlenet", weights=GoogLeNet_QuantizedWeights, unquantized=GoogLeNet_Weights)
def googlenet(
    *,
    weights: WeightsEnum | None = None,
    progress: bool = True,
    quantize: bool = False,
    backend: str | None = None,
    aux_logits: bool | None = None,
    transform_input: bool | None = None,
    **kwargs: Any,
) -> QuantizableGoogLeNet:
    """Build GoogLeNet (13.0 M parameters, of which the auxiliary heads have 6.4 M), in float or in INT8.

    Args:
        weights: `GoogLeNet_QuantizedWeights` with `quantize`, `GoogLeNet_Weights` without, None for random ones.
        progress: show a progress line while downloading.
        quantize: convert to INT8.
        backend: the engine for INT8, of x86, fbgemm, qnnpack and onednn; None for the one that suits this processor.
        aux_logits: with auxiliary heads; None for those alone that have random weights.
        transform_input: passed to `GoogLeNet`; None for what the weights need.
        **kwargs: passed to `GoogLeNet`, such as `num_classes`.

    Raises:
        FailedPreconditionError: this processor or build of PyTorch lacks the engine.
    """
    published = weights is not None
    if published:
        kwargs["init_weights"] = False
    # Both published files have the heads, so they must be there to load them.
    model = QuantizableGoogLeNet(
        aux_logits=published or aux_logits is not False,
        transform_input=published if transform_input is None else transform_input,
        **kwargs,
    )
    finish(model, weights, progress, quantize=quantize, backend=backend, layout="fbgemm")
    if published and not aux_logits:
        model.aux1 = model.aux2 = None
    return model
