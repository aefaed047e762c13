"""Everything in `zoofleet.models.ops.feature_pyramid_network`, under the name that torchvision has for that module."""

from zoofleet.models.ops.feature_pyramid_network import *  # noqa: F403
from zoofleet.models.ops.feature_pyramid_network import __all__ as __all__
