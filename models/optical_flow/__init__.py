"""Optical flow models: two images in, the displacement of every pixel out."""

from zoofleet.models.optical_flow.raft import (
    RAFT,
    LinearCorrBlock,
    Raft_Large_Weights,
    Raft_Small_Weights,
    raft_large,
    raft_small,
)

__all__ = ["RAFT", "LinearCorrBlock", "Raft_Large_Weights", "Raft_Small_Weights", "raft_large", "raft_small"]
