"""The operators, under the name that they have in torchvision; `zoofleet.models.ops` has them."""

from zoofleet.models.ops import *  # noqa: F403
from zoofleet.models.ops import __all__ as __all__
