"""Reading of images and videos into tensors, with the decoders of the cluster's workers."""

from zoofleet.io.image import read_image
from zoofleet.io.video import read_video

__all__ = ["read_image", "read_video"]
