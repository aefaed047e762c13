"""Everything in `zoofleet.models.ops.poolers`, under the name that torchvision has for that module."""

from zoofleet.models.ops.poolers import *  # noqa: F403
from zoofleet.models.ops.poolers import __all__ as __all__
