"""`zoofleet video`: models on the frames of a video, which is decoded once for all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoofleet._catalog import ModelName
from zoofleet._cli.console import (
    Address,
    Bar,
    MaxDetections,
    Models,
    PrecisionOption,
    ScoreThreshold,
    TopK,
    connect,
    progress,
    stdout,
    tasks_of,
)
from zoofleet._wire.address import DEFAULT_ADDRESS
from zoofleet.errors import FailedPreconditionError, InvalidMediaError

if TYPE_CHECKING:
    from PIL import Image

    from zoofleet import FrameResults

_MAX_WIDTH = 1920
"""Largest width of an annotated video, in pixels: that of full HD, which all common players take."""


def video(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="The video.")],
    model: Models,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder for the results and the annotated video.")
    ] = Path("out"),
    frame_step: Annotated[
        int, typer.Option(min=1, help="Analyse every N-th frame, beginning with the first.", metavar="N")
    ] = 1,
    max_frames: Annotated[int, typer.Option(min=0, help="Stop after N analysed frames. 0 for all.", metavar="N")] = 0,
    precision: PrecisionOption = None,
    top_k: TopK = None,
    score_threshold: ScoreThreshold = None,
    max_detections: MaxDetections = None,
    annotate: Annotated[bool, typer.Option(help="Write a video of the frames beside the results.")] = True,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Run models on the frames of a video, and write the results to a folder.

    The folder gets NAME.jsonl (the results of a frame on each line, label maps
    and flows in short) and NAME.mp4, which shows the original beside a panel
    for each model.
    """
    tasks = tasks_of(model, precision, top_k=top_k, score_threshold=score_threshold, max_detections=max_detections)
    out.mkdir(parents=True, exist_ok=True)
    lines, picture = out / f"{file.stem}.jsonl", out / f"{file.stem}.mp4"
    if picture.exists() and picture.samefile(file):
        raise typer.BadParameter(f"--out {out} would overwrite {file}")
    names = [ModelName.parse(name) for name in model]
    with ExitStack() as stack:
        client = stack.enter_context(connect(address))
        panels = stack.enter_context(closing(_Panels(file, picture, names, frame_step))) if annotate else None
        records = stack.enter_context(lines.open("w", encoding="utf-8"))
        bar = Bar(stack.enter_context(progress()), "Frames", None, "frames")
        analysis = client.analyze_video(file, tasks, frame_step=frame_step, max_frames=max_frames)
        for count, frame in enumerate(analysis, start=1):
            if panels is not None:
                panels.add(frame)
            json.dump(_record_of(frame), records, ensure_ascii=False, separators=(",", ":"))
            records.write("\n")
            expected = -(-analysis.info.frame_count // frame_step) if analysis.info else 0
            bar.show(count, total=min(expected or max_frames, max_frames or expected) or None)
    if analysis.summary is not None:
        frames = f"{analysis.summary.analyzed_frame_count} of {analysis.summary.decoded_frame_count} frames"
        stdout().print(f"{file.name}: {frames} → {lines}" + (f", {picture}" if annotate else ""))


def _record_of(frame: FrameResults) -> dict[str, Any]:
    from zoofleet._cli.output import record_of

    results = [record_of(result) for result in frame.results]
    for record in results:
        del record["item"]
    return {"frame": frame.frame_index, "pts": round(frame.pts, 6), "results": results}


class _Panels:
    """A video that shows the original frames, each beside a panel for each model.

    Args:
        source: the video that is analysed. It is decoded a second time here.
        target: the path of the MP4 file to write.
        models: names of the models, in the order of their panels.
        frame_step: the number of frames of the source for each frame of the target.

    Raises:
        FailedPreconditionError: PyAV is not installed.
        InvalidMediaError: the video cannot be opened.
    """

    def __init__(self, source: Path, target: Path, models: Sequence[ModelName], frame_step: int) -> None:
        try:
            import av
        except ImportError:
            raise FailedPreconditionError(
                "annotated videos need PyAV: pip install 'zoofleet[worker]', or leave them out with --no-annotate"
            ) from None
        try:
            self._source = av.open(str(source), metadata_errors="replace")
        except (OSError, ValueError) as error:
            raise InvalidMediaError(f"cannot open {str(source)!r}: {error}") from None
        self._frames = self._decode()
        self._target = av.open(str(target), "w")
        self._stream: Any = None
        self._step = frame_step
        self._last: dict[str, tuple[str, Image.Image | None]] = {str(model): (str(model), None) for model in models}
        self._max_norm = 1.0

    def _decode(self) -> Iterator[tuple[int, Any]]:
        if not self._source.streams.video:
            raise InvalidMediaError("the file has no video")
        yield from enumerate(self._source.decode(video=0))

    def add(self, frame: FrameResults) -> None:
        """Append the picture of an analysed frame."""
        import av
        import numpy as np
        from PIL import Image, ImageOps

        from zoofleet._cli.render import side_by_side

        image = next((f.to_image() for index, f in self._frames if index == frame.frame_index), None)
        if image is None:
            return
        for result in frame.results:
            self._last[result.model] = self._panel(result.model, image, result.outcome)
        captions, panels = zip(("original", image), *self._last.values(), strict=True)
        # All panels get the same size, whatever their legends, so that all frames of the video have one size.
        scale = min(1.0, _MAX_WIDTH / (image.width * len(panels)))
        size = (round(scale * image.width), round(scale * image.height))
        cells = [ImageOps.pad(panel or Image.new("RGB", size), size) for panel in panels]
        picture = side_by_side(cells, captions)
        if self._stream is None:
            self._stream = self._open_stream(picture.size)
        picture = picture.crop((0, 0, self._stream.width, self._stream.height))
        for packet in self._stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")):
            self._target.mux(packet)

    def _panel(self, model: str, image: Image.Image, outcome: Any) -> tuple[str, Image.Image]:
        import numpy as np

        from zoofleet import Flow, ZoofleetError
        from zoofleet._cli.output import annotate

        name = model.partition("@")[0]
        if isinstance(outcome, ZoofleetError):
            return f"{name}: {outcome}", image
        if isinstance(outcome, Flow):
            # One scale for all frames, which grows with the fastest so far: colours compare and do not flicker.
            self._max_norm = max(self._max_norm, float(np.percentile(np.hypot(*outcome.flow), 99)))
        return model, annotate(outcome, image, max_norm=self._max_norm)

    def _open_stream(self, size: tuple[int, int]) -> Any:
        rate = Fraction(self._source.streams.video[0].average_rate or 25) / self._step
        stream: Any = self._target.add_stream("libx264", rate=rate.limit_denominator(1 << 16))
        stream.width, stream.height = (side // 2 * 2 for side in size)  # 4:2:0 has half as many chroma samples
        stream.pix_fmt = "yuv420p"
        return stream

    def close(self) -> None:
        """Finish the video."""
        if self._stream is not None:
            for packet in self._stream.encode(None):
                self._target.mux(packet)
        self._target.close()
        self._source.close()
