"""The encodings of masks and flows: asked for through the client, answered by a worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zoofleet import AsyncClient, Detect, Detections, FlowEncoding, MaskEncoding
from zoofleet._media.png import decode_png
from zoofleet._values import results
from zoofleet.worker import Worker


async def test_a_flow_is_as_exact_as_its_encoding(worker: Worker, media: Path) -> None:
    pair = [Image.open(media / name).convert("RGB").resize((128, 128)) for name in ("chelsea.png", "coffee.png")]
    flows = {}
    async with AsyncClient(worker.address) as client:
        for encoding in (None, *FlowEncoding):
            found = await client.estimate_flow(
                *pair, model="raft_small@random", num_flow_updates=1, flow_encoding=encoding
            )
            flows[encoding] = found.flow
    exact = flows[FlowEncoding.FLO]
    assert exact.shape == (2, 128, 128) and np.abs(exact).max() > 0.5
    half = exact.astype(np.float16).astype(np.float32)
    assert not np.array_equal(exact, half)
    np.testing.assert_array_equal(flows[FlowEncoding.FLOAT16], half)
    np.testing.assert_array_equal(flows[None], half)
    steps = flows[FlowEncoding.KITTI_PNG] * 64
    np.testing.assert_array_equal(steps, steps.round())
    np.testing.assert_allclose(steps, exact * 64, atol=0.51)


async def test_masks_travel_as_run_lengths_or_pngs(
    worker: Worker, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def counting(*args: Any, **options: Any) -> Any:
        decoded.append(options["mode"])
        return decode_png(*args, **options)

    monkeypatch.setattr(results, "decode_png", counting)
    strip = Image.open(media / "coffee.png").crop((0, 150, 400, 190))  # R-CNNs enlarge it less than a square
    found: dict[MaskEncoding | None, Detections] = {}
    async with AsyncClient(worker.address) as client:
        for encoding in (None, *MaskEncoding):
            task = Detect("maskrcnn_resnet50_fpn@random", 0.0, 2, encoding)
            async for result in client.stream(task, [strip]):
                assert isinstance(result.outcome, Detections)
                found[encoding] = result.outcome
            assert len(decoded) == (2 if encoding is MaskEncoding.PNG else 0)
    masks = found[None].masks
    assert masks is not None and masks.any()
    for one in found.values():
        assert one.rles == found[None].rles
