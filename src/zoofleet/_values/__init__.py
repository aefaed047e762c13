"""Tasks, results and resources as plain dataclasses; protobuf only in `to_proto` and `from_proto`."""
