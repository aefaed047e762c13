"""Video classification models: clips in, logits over Kinetics-400 out."""

from zoofleet.models.video.resnet import R3D_18_Weights, VideoResNet, r3d_18

__all__ = ["R3D_18_Weights", "VideoResNet", "r3d_18"]
