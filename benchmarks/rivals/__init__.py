"""What Zoofleet is measured beside: loops in one process, a plain gRPC server, and LitServe.

All of them decode, preprocess, run and finish by `engine.py`, with what a worker uses for it, so that none is ahead by
doing less, and what differs is how items come in, are batched, and go out.
"""
