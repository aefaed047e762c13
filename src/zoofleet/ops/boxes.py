"""`zoofleet.models.ops.boxes`, under the name that it has in torchvision."""

from zoofleet.models.ops.boxes import *  # noqa: F403
from zoofleet.models.ops.boxes import __all__ as __all__
