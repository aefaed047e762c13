"""Bytes that are no message, at every method of both servers: refused as what they are, and hardly logged."""

from __future__ import annotations

import importlib
import pkgutil
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.cluster.conftest import Cluster

import zoofleet.v1
from zoofleet import Client
from zoofleet._wire.status import DETAILS_KEY, from_rpc_error
from zoofleet.errors import InvalidArgumentError
from zoofleet.v1 import jobs_pb2, vision_pb2

pytestmark = pytest.mark.cluster

INPUTS: Final = 60
"""For each method and position in its stream."""

FIRST: Final[dict[str, Message]] = {
    "Classify": vision_pb2.ClassifyRequest(task=vision_pb2.Task(model="squeezenet1_1@random")),
    "Segment": vision_pb2.SegmentRequest(task=vision_pb2.Task(model="lraspp_mobilenet_v3_large@random")),
    "Detect": vision_pb2.DetectRequest(task=vision_pb2.Task(model="ssdlite320_mobilenet_v3_large@random")),
    "ClassifyClip": vision_pb2.ClassifyClipRequest(task=vision_pb2.Task(model="r3d_18@random")),
    "EstimateFlow": vision_pb2.EstimateFlowRequest(task=vision_pb2.Task(model="raft_small@random")),
    "AnalyzeVideo": vision_pb2.AnalyzeVideoRequest(
        header=vision_pb2.VideoHeader(tasks=[vision_pb2.Task(model="squeezenet1_1@random")])
    ),
    "CreateJob": jobs_pb2.CreateJobRequest(
        spec=jobs_pb2.JobSpec(job=jobs_pb2.Job(tasks=[vision_pb2.Task(model="squeezenet1_1@random")]))
    ),
}
"""What streams of requests begin with, so that they are read on; a new one belongs here."""


def methods() -> Iterator[MethodDescriptor]:
    """All methods of the contract, and of the health service."""
    names = [module.name for module in pkgutil.iter_modules(zoofleet.v1.__path__) if module.name.endswith("_pb2")]
    modules = [importlib.import_module(f"zoofleet.v1.{name}") for name in names]
    for module in (*modules, health_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def fill(message: Message, rng: random.Random, depth: int = 0) -> None:
    """Set every field, down to some depth, to something that may mean something."""
    strings = ["squeezenet1_1@random", "jobs/" + "0" * 32, "workers/w", "models/resnet50", "127.0.0.1:9", "é" * 50, ""]
    for field in message.DESCRIPTOR.fields:
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            if depth < 4:
                value = getattr(message, field.name)
                fill(value.add() if field.is_repeated else value, rng, depth + 1)
            continue
        value = {
            FieldDescriptor.TYPE_STRING: rng.choice(strings),
            FieldDescriptor.TYPE_BYTES: rng.randbytes(rng.randrange(40)),
            FieldDescriptor.TYPE_BOOL: True,
            FieldDescriptor.TYPE_FLOAT: rng.choice([0.5, float("nan"), -1e30]),
            FieldDescriptor.TYPE_DOUBLE: rng.choice([0.5, float("inf"), 1e300]),
            FieldDescriptor.TYPE_ENUM: rng.choice([1, 99]),
        }.get(field.type, rng.choice([0, 1, 7, 2**31 - 1]))
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)


def odd_bytes(message_class: type[Message], rng: random.Random) -> bytes:
    """A message cut short, with bytes flipped, of wrong wire types, of random bytes, or nested without end."""
    message = message_class()
    fill(message, rng)
    data = bytearray(message.SerializeToString()) or bytearray(b"\x0a\x01")
    kind = rng.randrange(6)
    if kind == 0:
        return bytes(data[: rng.randrange(len(data))])
    if kind == 1:
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)
    if kind == 2:  # a known field as a varint, a fixed number, a string that is no UTF-8, or a group
        number = rng.choice([field.number for field in message.DESCRIPTOR.fields] or [1])
        wire_type = rng.randrange(8)
        return bytes([(number << 3 | wire_type) & 0x7F, 2, 0xFF, 0xFE]) + bytes(data)
    if kind == 3:
        return rng.randbytes(rng.randrange(1, 200))
    if kind == 4:
        return b"\x0b" * 300  # groups within groups
    return bytes(data)


def decodes(message_class: type[Message], data: bytes) -> bool:
    try:
        message_class.FromString(data)
    except DecodeError:
        return False
    return True


def call(channel: grpc.Channel, method: MethodDescriptor, messages: list[bytes]) -> grpc.RpcError | None:
    """Send messages as they are and read what comes, of endless streams only the beginning; returns the error."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    # A server cannot tell a unary request from a stream of one.
    stream: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)
    responses = stream(iter(messages), timeout=60)
    try:
        for _ in responses:
            if method.server_streaming and not method.client_streaming:
                responses.cancel()
                return None
    except grpc.RpcError as error:
        return error
    return None


def served(channel: grpc.Channel) -> list[MethodDescriptor]:
    """The methods that a server has."""
    found = []
    for method in methods():
        error = call(channel, method, [b"\xff"])
        if error is None or error.code() is not grpc.StatusCode.UNIMPLEMENTED:
            found.append(method)
    return found


def check(error: Any, method: MethodDescriptor, message_class: type[Message], data: bytes) -> None:
    said = f"{method.full_name} of {data!r}: {error}"
    if not decodes(message_class, data):
        assert error is not None, said
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, said
        assert method.input_type.name in error.details(), said
        assert any(key == DETAILS_KEY for key, _ in error.trailing_metadata()), said
        assert type(from_rpc_error(error)) is InvalidArgumentError
    elif error is not None:
        assert error.code() not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL), said


def check_that_an_empty_call_is_answered(channel: grpc.Channel, method: MethodDescriptor) -> None:
    error: Any = call(channel, method, [])
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, f"{method.full_name}: {error}"


def fuzz(channel: grpc.Channel, method: MethodDescriptor, rng: random.Random) -> None:
    message_class: Any = GetMessageClass(method.input_type)
    for _ in range(INPUTS):
        data = odd_bytes(message_class, rng)
        check(call(channel, method, [data]), method, message_class, data)
        if method.client_streaming:
            check(call(channel, method, [FIRST[method.name].SerializeToString(), data]), method, message_class, data)


def test_what_does_not_parse_is_refused_and_hardly_logged(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start_scheduler()
    cluster.start_worker()
    rng = random.Random(0)
    with Client(cluster.address) as client:
        while not (workers := list(client.list_workers())):
            time.sleep(0.05)
        names = {}
        for address in (cluster.address, workers[0].address):
            with grpc.insecure_channel(address) as channel:
                found = served(channel)
                names[address] = {method.containing_service.name for method in found}
                for method in found:
                    check_that_an_empty_call_is_answered(channel, method)
                    fuzz(channel, method, rng)
                health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
                assert health.status == health_pb2.HealthCheckResponse.SERVING
        assert names[cluster.address] == {"Vision", "Jobs", "Models", "Fleet", "Health"}
        assert names[workers[0].address] == {"Vision", "Models", "Health"}
        assert [worker.name for worker in client.list_workers()] == [workers[0].name]
    log = (tmp_path / "cluster.log").read_text()
    refusals = [line for line in log.splitlines() if "requests that do not parse" in line]
    assert "Traceback" not in log
    assert 2 <= len(refusals) <= 8, "one for each server at once, and one a minute"
