"""INT8 forms of float models, as plans for those operators who allow them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from zoofleet._catalog import ModelName
from zoofleet.worker.config import WorkerConfig
from zoofleet.worker.loading import make_runner
from zoofleet.worker.plans.assembly import assemble
from zoofleet.worker.plans.child import _Builder
from zoofleet.worker.plans.examples import examples
from zoofleet.worker.plans.int8 import int8_builder
from zoofleet.worker.plans.rungs import Rung, ladder
from zoofleet.worker.plans.trial import Request, Trial
from zoofleet.worker.runner import Prepared

INT8 = Rung("INT8", "int8")


def builder_of(name: str, folder: Path) -> tuple[_Builder, list[Prepared]]:
    runner = make_runner(ModelName.parse(name), torch.device("cpu"), WorkerConfig())
    with torch.no_grad():
        items = examples(runner, (), 8)
        return _Builder(runner, items, examples(runner, (), 1), Request(name, (), "cpu", 1, str(folder), True)), items


def test_int8_follows_exact_and_comes_back_from_its_file(tmp_path: Path) -> None:
    builder, items = builder_of("resnet18@random", tmp_path)
    trial = Trial.from_json(json.loads(json.dumps(dataclasses.asdict(builder.trial(INT8)))))
    assert trial.is_valid, trial.message
    assert 0 < trial.deviation < 0.005
    module = builder._runner.module
    form = assemble(module, INT8, trial.parts, tmp_path)
    state = torch.random.get_rng_state()
    again = assemble(module, INT8, trial.parts, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    pictures = torch.stack([item.inputs[0] for item in items])
    with torch.inference_mode():
        assert torch.equal(form(pictures), again(pictures))
        assert not torch.equal(form(pictures), module(pictures))


def test_int8_that_strays_is_refused(tmp_path: Path) -> None:
    # With random weights its logits are next to nothing beside their bias: rounding leaves none of them.
    trial = builder_of("mobilenet_v2@random", tmp_path)[0].trial(INT8)
    assert not trial.is_valid
    assert trial.message.startswith("strays from EXACT")


@pytest.mark.parametrize("allowed", [False, True])
def test_int8_is_tried_where_the_operator_allows_it(*, allowed: bool) -> None:
    names = [rung.name for rung in ladder(torch.device("cpu"), int8=allowed)]
    assert ("INT8" in names) == allowed


def test_the_zoo_has_int8_forms_of_some_classifiers() -> None:
    assert int8_builder(ModelName.parse("resnet50@random")) == "quantized_resnet50"
    assert int8_builder(ModelName.parse("vgg11@random")) is None
    assert int8_builder(ModelName.parse("quantized_resnet50@random")) is None
