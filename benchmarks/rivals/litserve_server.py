"""LitServe with the same model: batching on, a worker of one thread for each core, as its documentation says for CPUs.

The bytes travel raw in both directions, neither as JSON nor in base64: the request's body is the image, the response's
the message.
"""

import argparse
from collections.abc import Sequence
from typing import Annotated, Any

import litserve
from benchmarks.rivals.engine import Engine, add_arguments, media_of
from fastapi import Depends, Request, Response

from zoofleet._values.tasks import Precision
from zoofleet.v1 import vision_pb2
from zoofleet.worker.runner import Prepared

BATCH_TIMEOUT = 0.005
"""Seconds that a batch waits to fill up. LitServe polls, so with 0 its workers would spin while they are idle."""


async def _body(request: Request) -> bytes:
    return await request.body()


# No `from __future__ import annotations` here: LitServe hands this annotation itself to FastAPI.
Body = Annotated[bytes, Depends(_body)]


class Api(litserve.LitAPI):  # type: ignore[misc]  # it has no types
    def __init__(self, model: str, precision: str, warm: bytes, max_batch_size: int) -> None:
        super().__init__(max_batch_size=max_batch_size, batch_timeout=BATCH_TIMEOUT)
        self._model = model
        self._precision = precision
        self._warm = warm

    def setup(self, device: str) -> None:
        self._engine = Engine(self._model, Precision[self._precision], threads=1)
        self._engine.wait(self._warm)

    def decode_request(self, request: Body) -> Prepared:
        return self._engine.prepare(request)

    def batch(self, inputs: Sequence[Prepared]) -> Sequence[Prepared]:
        return inputs

    def predict(self, x: Sequence[Prepared]) -> list[vision_pb2.Result]:
        """Run the items of each key as a batch, since pictures of several sizes do not fit together."""
        answers: dict[int, vision_pb2.Result] = {}
        for key in {item.key for item in x}:
            positions = [k for k, item in enumerate(x) if item.key == key]
            items = [x[k] for k in positions]
            plan = self._engine.plan(items[0])
            for k, item, raw in zip(positions, items, self._engine.forward(items, plan), strict=True):
                answers[k] = self._engine.finish(item, raw, plan)
        return [answers[k] for k in range(len(x))]

    def unbatch(self, output: Sequence[vision_pb2.Result]) -> Sequence[vision_pb2.Result]:
        return output

    def encode_response(self, output: vision_pb2.Result, **_: Any) -> Response:
        return Response(output.SerializeToString(), media_type="application/x-protobuf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--max-batch-size", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    api = Api(arguments.model, arguments.precision, media_of(arguments)[0], arguments.max_batch_size)
    server = litserve.LitServer(
        api, accelerator="cpu", devices=1, workers_per_device=arguments.threads, timeout=600, restart_workers=False
    )
    server.run(host="127.0.0.1", port=arguments.port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
