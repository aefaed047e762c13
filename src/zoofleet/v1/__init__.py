"""Generated from protos/zoofleet/v1 by scripts/protos; not edited."""
