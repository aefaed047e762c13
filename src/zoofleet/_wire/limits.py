"""Limits that client, scheduler and worker must agree on; settings of each alone stand in its own room."""

from __future__ import annotations

from typing import Final

MAX_TASKS: Final = 8
"""Most tasks of a job or a video."""

MAX_ITEM_ID_BYTES: Final = 256
"""Most bytes of an item's id in UTF-8."""

PART_BYTES: Final = 2 * 1024 * 1024
"""Most bytes of `data` in one `Part`. Messages up to this size travel whole, since gRPC's limit is 4 MiB a message."""

BATCH_ITEMS: Final = 256
"""Most items or results in one message, which `PART_BYTES` bounds too. It bounds how long a server looks at one."""

BATCHES_KEY: Final = "zoofleet-batches"
"""The key of the initial metadata by which a server of `CreateJob` says that it takes batches."""

DEFAULT_MAX_ITEM_BYTES: Final = 32 * 1024 * 1024
"""Most bytes of an encoded item that scheduler and worker accept unless their operators say otherwise."""

MAX_RESULT_BYTES: Final = 512 * 1024 * 1024
"""Most bytes of a result that a client joins from parts. A float16 flow takes 4 bytes a pixel: 134 megapixels."""

STREAM_WINDOW: Final = 64
"""Most items of one stream that a sender has on the way to a worker, unanswered.

More than `WORKER_STREAM_ITEMS`, so that a worker that finishes an item has the next one at hand.
"""

STREAM_WINDOW_BYTES: Final = 64 * 1024 * 1024
"""Most bytes of items that a sender has on the way in one stream, unanswered; one item always may be."""

WORKER_STREAM_ITEMS: Final = 48
"""Items of one stream that a worker works on at once, unless its operator says otherwise."""
