"""The facts of builders that torchvision lacks, read off the builders themselves.

The reference's facts were read off torchvision and are never replaced. A builder that torchvision lacks has nothing to
be compared with: its facts say `"source": "own"`, and hold it to what it was when they were written.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from tests.models import reference
from tests.models.detection import scenes
from tests.models.reference import Built

from zoofleet import _catalog
from zoofleet.errors import AlreadyExistsError
from zoofleet.models import get_model

OWN = "own"
"""The `source` of facts that were read off the builder itself; those of the reference have none."""

INPUTS = {
    "classification": "(image({height},{width},1)/255-0.45)/0.225, NCHW",
    "quantization": "(image({height},{width},1)/255-0.45)/0.225, NCHW",
    "segmentation": "(image(224,224,1)/255-0.45)/0.225, NCHW",
    "detection": "[image(240,320,7)/255, image(200,180,8)/255], CHW; score_thresh 0.0, box_detections_per_img 20",
    "video": "(clip(16,{height},{width},5)/255-0.45)/0.225, N C T H W",
    "optical_flow": "clip(2,128,160,3)/127.5-1, NCHW, first and second frame",
}
"""What the builders of a task are run on, as `reference.inputs` reads it."""


def _input(name: str) -> str:
    """The input of that builder's task, in the size of its default weights' transforms where they have one."""
    crop = next((row.transforms.get("crop_size", 224) for row in _catalog.weights(name) if row.default), 224)
    height, width = crop if isinstance(crop, list) else (crop, crop)
    return INPUTS[_catalog.builders()[name].task].format(height=height, width=width)


def write(name: str) -> Built:
    """Write all facts of a builder, and a line to stdout for each file.

    Args:
        name: a builder that torchvision lacks.

    Returns:
        The model that they were read off.

    Raises:
        AlreadyExistsError: there are facts of the reference about this builder.
    """
    rows = reference.load("builders.json")
    if name in rows and rows[name].get("source") != OWN:
        raise AlreadyExistsError("its facts were read off torchvision; they are not replaced")
    task, kind = _catalog.builders()[name].task, _input(name)
    built = reference.build(name)
    with torch.inference_mode():
        output = reference.summarize(built.model(*reference.inputs(kind)))
    row = {"tensors": len(built.manifest), "seed0_sha256": built.seed0_sha256, "source": OWN}
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in (rows | {name: row}).items()]
    _write("builders.json", "{\n" + ",\n".join(lines) + "\n}\n")
    _write(f"state_dicts/{name}.json", _table(built.manifest))
    _write(f"outputs/{name}.json", _short({"source": OWN, "input": {"kind": kind}, "output": output}) + "\n")
    if task == "quantization":
        int8 = get_model(name, quantize=True).state_dict()
        _write(f"state_dicts/{name}.int8.json", _table(reference.describe(int8)))
    if task == "detection":
        losses = reference.load("losses.json") | {name: scenes.losses(name)}
        _write("losses.json", json.dumps(losses, indent=1) + "\n")
    return built


def _table(rows: list[list[Any]]) -> str:
    return "[\n" + ",\n".join(map(_short, rows)) + "\n]\n"


def _short(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _write(path: str, text: str) -> None:
    file = reference.ZOO / path
    before = file.read_text() if file.exists() else None
    file.write_text(text)
    print(f"{'new' if before is None else 'unchanged' if before == text else 'changed':9} tests/data/zoo/{path}")
