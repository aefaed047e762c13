"""Everything in `zoofleet.models.ops.misc`, under the name that torchvision has for that module."""

from zoofleet.models.ops.misc import *  # noqa: F403
from zoofleet.models.ops.misc import __all__ as __all__
