"""The operators and layers of `zoofleet.models.ops`, under the name that torchvision has for that package."""

from zoofleet.models.ops import *  # noqa: F403
from zoofleet.models.ops import __all__ as __all__
from zoofleet.ops import boxes as boxes
from zoofleet.ops import feature_pyramid_network as feature_pyramid_network
from zoofleet.ops import misc as misc
from zoofleet.ops import poolers as poolers
