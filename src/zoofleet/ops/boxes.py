"""Everything in `zoofleet.models.ops.boxes`, under the name that torchvision has for that module."""

from zoofleet.models.ops.boxes import *  # noqa: F403
from zoofleet.models.ops.boxes import __all__ as __all__
