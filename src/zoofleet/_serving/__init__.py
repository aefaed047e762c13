"""What the scheduler and the worker have in common as gRPC servers."""
