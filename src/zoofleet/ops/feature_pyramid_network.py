"""`zoofleet.models.ops.feature_pyramid_network`, under the name that it has in torchvision."""

from zoofleet.models.ops.feature_pyramid_network import *  # noqa: F403
from zoofleet.models.ops.feature_pyramid_network import __all__ as __all__
