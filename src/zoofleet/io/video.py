"""Reading of videos into tensors."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

from zoofleet._media.sources import read_error
from zoofleet._media.videos import VideoReader
from zoofleet.errors import InvalidArgumentError, InvalidMediaError

__all__ = ["read_video"]

_MAX_PIXELS: Final = 1 << 28
"""Most pixels of a frame: 268 megapixels, 805 MB in memory."""


def read_video(
    path: str | os.PathLike[str], output_format: Literal["THWC", "TCHW"] = "THWC"
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Read all frames of a video into memory, as RGB, upright.

    Args:
        path: the path of a file in a format that FFmpeg reads.
        output_format: the order of the frames' axes: `THWC` or `TCHW`, for time T, height H, width W and channels C.

    Returns:
        The frames, uint8 (T, H, W, 3) or (T, 3, H, W). The sound, which is not decoded, as an empty float tensor
        (1, 0). A dict with the frames a second as `video_fps`, which is empty where the file does not say.

    Raises:
        MediaNotFoundError: there is no such file. This is a FileNotFoundError, too.
        PermissionDeniedError: the file may not be read.
        InvalidMediaError: the file is no video, or the video is broken or ends early.
        ItemTooLargeError: the frames have more than 2**28 pixels.
        InvalidArgumentError: the output format is another one.
    """
    if output_format not in ("THWC", "TCHW"):
        raise InvalidArgumentError(f"output_format is {output_format!r}; accepted: 'THWC', 'TCHW'")
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise read_error(path, error) from None
    frames: list[Tensor] = []
    reader = VideoReader(BytesIO(data), _MAX_PIXELS)
    try:
        info = {"video_fps": reader.frame_rate} if reader.frame_rate else {}
        while (frame := reader.next()) is not None:
            frames.append(torch.from_numpy(np.array(frame.image())))  # (H, W, 3)
    finally:
        reader.close()
    if not frames:
        raise InvalidMediaError(f"{os.fspath(path)!r} has no frame that can be decoded")
    video = torch.stack(frames)  # (T, H, W, 3)
    return video if output_format == "THWC" else video.permute(0, 3, 1, 2), torch.empty(1, 0), info
