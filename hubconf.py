"""Lets torch.hub build the zoo's models from a checkout.

    model = torch.hub.load(CHECKOUT, "resnet50", source="local", weights="IMAGENET1K_V2")
    weights = torch.hub.load(CHECKOUT, "get_weight", source="local", weights="ResNet50_Weights.IMAGENET1K_V2")

Every name in `list_models()` is an entry point. Unless Zoofleet is installed, `scripts/build-ops` must have been run.
"""

import importlib.util as _importing
import sys as _sys
from pathlib import Path as _Path

dependencies = ["torch", "numpy", "PIL"]

# An installed Zoofleet comes first: it has its kernels with it.
if _importing.find_spec("zoofleet") is None:
    _sys.path.append(str(_Path(__file__).parent / "src"))

import zoofleet.models as _models  # noqa: E402
from zoofleet.models import get_model_weights, list_models  # noqa: E402

__all__ = ["get_model_weights", "get_weight", "list_models"]


def get_weight(weights: str) -> _models.WeightsEnum:
    """The weight set with that full name, such as `"ResNet50_Weights.IMAGENET1K_V2"`."""
    return _models.get_weight(weights)


globals().update({name: _models.get_model_builder(name) for name in list_models()})
