"""What all programs share: parts, names, pages, kinds and pauses."""

from __future__ import annotations

from itertools import islice

import pytest

from zoofleet import _catalog, errors
from zoofleet._catalog import ModelName
from zoofleet._wire import names, pages
from zoofleet._wire.backoff import backoff
from zoofleet._wire.kinds import NumberOption, TaskKind, kind_of
from zoofleet._wire.limits import PART_BYTES
from zoofleet._wire.parts import Joiner, cut
from zoofleet.v1 import models_pb2, vision_pb2


def item(size: int, item_id: str = "a") -> vision_pb2.Item:
    return vision_pb2.Item(item_id=item_id, media=[vision_pb2.Media(data=bytes(range(256)) * (size // 256))])


@pytest.mark.parametrize("size", [256, PART_BYTES - 256, PART_BYTES, 3 * PART_BYTES, 3 * PART_BYTES + 256])
def test_what_is_cut_is_joined_again(size: int) -> None:
    whole = item(size)
    messages = list(cut(vision_pb2.ClassifyRequest, whole))
    assert len(messages) == (1 if whole.ByteSize() <= PART_BYTES else -(-whole.ByteSize() // PART_BYTES))
    assert all(len(message.part.data) <= PART_BYTES for message in messages)
    joiner = Joiner(vision_pb2.Item, 10 * PART_BYTES)
    *begun, joined = [joiner.add(message) for message in messages]
    assert not any(begun) and joined == ("a", whole)
    joiner.finish()


def test_what_is_too_large_is_one_items_error() -> None:
    joiner = Joiner(vision_pb2.Item, 2 * PART_BYTES)
    *begun, joined = [joiner.add(message) for message in cut(vision_pb2.ClassifyRequest, item(5 * PART_BYTES))]
    assert not any(begun) and joined is not None
    assert joined[0] == "a" and isinstance(joined[1], errors.ItemTooLargeError)
    small = item(256, "b")
    assert joiner.add(vision_pb2.ClassifyRequest(item=small)) == ("b", small)


def test_frames_travel_under_their_index() -> None:
    frame = vision_pb2.FrameResults(frame_index=7, results=[vision_pb2.Result(model="x" * 100)] * 30_000)
    messages = list(cut(vision_pb2.AnalyzeVideoResponse, frame))
    assert len(messages) == 2 and {message.part.item_id for message in messages} == {"7"}


def test_a_broken_stream_is_refused() -> None:
    request = vision_pb2.ClassifyRequest
    part = request(part=vision_pb2.Part(item_id="a", data=b"x"))
    for messages, said in (
        ([request()], "nothing"),
        ([request(task=vision_pb2.Task())], "'task'"),
        ([part, request(item=item(0))], "before the last part of item 'a'"),
        ([part, request(part=vision_pb2.Part(item_id="b"))], "before the last part of item 'a'"),
        ([request(part=vision_pb2.Part(data=b"\xff", last=True))], "do not join"),
    ):
        joiner = Joiner(vision_pb2.Item, PART_BYTES)
        for message in messages[:-1]:
            joiner.add(message)
        with pytest.raises(errors.InvalidArgumentError, match=said):
            joiner.add(messages[-1])
    joiner = Joiner(vision_pb2.Item, PART_BYTES)
    joiner.add(part)
    with pytest.raises(errors.InvalidArgumentError, match="ended before the last part"):
        joiner.finish()


def test_a_kind_fits_the_contract() -> None:
    methods = vision_pb2.DESCRIPTOR.services_by_name["Vision"].methods_by_name
    assert {kind.method for kind in TaskKind} == {*methods} - {"AnalyzeVideo"}
    assert {kind.value for kind in TaskKind} | {0} == set(models_pb2.TaskKind.values())
    task = vision_pb2.Task.DESCRIPTOR
    for kind in TaskKind:
        assert models_pb2.TaskKind.Name(kind.value) == f"TASK_KIND_{kind.name}"
        assert methods[kind.method].input_type is kind.request.DESCRIPTOR
        assert methods[kind.method].output_type is kind.response.DESCRIPTOR
        options = task.fields_by_name[kind.field].message_type
        assert options is not None and {option.name for option in kind.options} == {*options.fields_by_name}
        for option in kind.options:
            if isinstance(option, NumberOption):
                option.check(option.default)
            else:
                option.check(option.default)
                assert option.enum.DESCRIPTOR is options.fields_by_name[option.name].enum_type
    assert {option.name for option in task.oneofs_by_name["options"].fields} == {kind.field for kind in TaskKind}


def test_every_builder_has_a_kind() -> None:
    assert {kind_of(ModelName(builder, _catalog.RANDOM)) for builder in _catalog.builders()} == set(TaskKind)


def test_names_are_read_as_they_are_written() -> None:
    job_id = "0123456789abcdef" * 2
    assert names.parse_job_name(names.job_name(job_id)) == job_id
    assert names.parse_worker_name(names.worker_name("GPU_1.a-b")) == "GPU_1.a-b"
    assert names.parse_model_name(names.model_name("resnet50")) == "resnet50"
    for parse, wrong in (
        (names.parse_job_name, ["", "jobs/", job_id, f"jobs/{job_id}0", f"jobs/{job_id.upper()}", f"workers/{job_id}"]),
        (names.parse_worker_name, ["", "workers/", "a", "workers/-a", "workers/a/b", "workers/" + 129 * "a"]),
        (names.parse_model_name, ["", "models/", "resnet50", "models/a/b", "jobs/a"]),
    ):
        for name in wrong:
            with pytest.raises(errors.InvalidArgumentError, match="is not written"):
                parse(name)


def test_pages_walk_a_list_that_changes() -> None:
    listed = ["d", "b", "a", "c"]
    first, token = pages.page("letters", listed, 2, "", 10)
    assert first == ["a", "b"]
    assert pages.page("letters", ["a", "bb", "c", "d"], 0, token, 10) == (["bb", "c", "d"], "")
    assert pages.page("letters", listed, 4, "", 10) == (["a", "b", "c", "d"], "")
    for scope, size, wrong in (("numbers", 2, token), ("letters", 2, "b"), ("letters", -1, "")):
        with pytest.raises(errors.InvalidArgumentError):
            pages.page(scope, listed, size, wrong, 10)


def test_pauses_double_up_to_the_longest() -> None:
    assert list(islice(backoff(0.5, 3.0), 5)) == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert list(islice(backoff(5.0, 3.0), 2)) == [3.0, 3.0]
    spread = list(islice(backoff(2.0, 2.0, jitter=0.5), 50))
    assert all(1.0 <= pause <= 2.0 for pause in spread) and len(set(spread)) > 1
