"""Zoofleet: a gRPC batch-processing worker cluster for vision."""
