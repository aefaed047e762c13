"""Images and videos from files to tensors, decoded as the cluster's workers decode them."""

from zoofleet.io.image import read_image
from zoofleet.io.video import read_video

__all__ = ["read_image", "read_video"]
