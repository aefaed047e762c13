"""Decoding of untrusted bytes to upright RGB images."""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import ExifTags, Image, UnidentifiedImageError

from zoofleet._media.quiet import quiet_pillow
from zoofleet.errors import InvalidMediaError, ItemTooLargeError

__all__ = ["decode_image", "describe"]

_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

# Pillow warns of large images, and refuses larger ones without saying how large. `decode_image` checks the size itself.
Image.MAX_IMAGE_PIXELS = None
quiet_pillow()

_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transpositions that make an image upright, by its EXIF orientation. 1 is upright (Exif 2.32, tag 0x0112)."""


def decode_image(data: bytes, max_pixels: int) -> Image.Image:
    """Decode an image to mode RGB.

    The EXIF orientation is applied, so that all results are in coordinates of the upright image. An animation gives its
    first frame. Of 16 bits a channel, the upper 8 are kept. An alpha channel is dropped, as in the training of the
    zoo's models. CMYK and palettes are converted.

    Args:
        data: a JPEG, PNG, WebP, BMP, GIF or TIFF file.
        max_pixels: number of pixels that an image may have at most.

    Raises:
        ItemTooLargeError: the header announces more than `max_pixels` pixels. Nothing was decoded.
        InvalidMediaError: the data are no image of a known format, truncated, or broken.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ItemTooLargeError(
                    f"a {image.format} of {width} x {height} pixels; accepted: at most {max_pixels} pixels"
                )
            transpose = _UPRIGHT.get(_orientation(image))
            rgb: Image.Image | None = _plain_jpeg(image, data)
            if rgb is None:
                image.load()
                rgb = _to_rgb(image)
            return rgb.transpose(transpose) if transpose is not None else rgb
    except UnidentifiedImageError:
        raise InvalidMediaError(f"{describe(data)} is no image; accepted: {', '.join(_FORMATS)}") from None
    except (ItemTooLargeError, InvalidMediaError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - Pillow's plugins raise nearly anything at broken files
        raise InvalidMediaError(f"{describe(data)} cannot be decoded: {error}") from None


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8. Broken EXIF data count as 1, upright, since the image itself can be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - Pillow raises nearly anything at broken EXIF data
        return 1
    return value if isinstance(value, int) else 1


class _Picture(Image.Image):
    """An RGB image that stays an array until Pillow is asked for more than its pixels.

    Pillow keeps four bytes a pixel and copies them twice to make an array; here numpy gets the decoded array itself.

    Args:
        pixels: uint8 (H, W, 3), contiguous.
    """

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        super().__init__()
        self._mode = "RGB"
        self._size = (pixels.shape[1], pixels.shape[0])
        self._pixels: npt.NDArray[np.uint8] | None = pixels

    def load(self) -> Any:
        """Become an ordinary Pillow image, which may be changed in place."""
        pixels = self._pixels
        if pixels is not None:
            self.im = Image.fromarray(pixels).im
            self._pixels = None
        return super().load()

    def crop(self, box: tuple[float, float, float, float] | None = None) -> Image.Image:
        """Cut a box (left, top, right, bottom) out; what lies outside of the image is black."""
        pixels = self._pixels
        if pixels is None or box is None or min(box[:2]) < 0 or box[2] > self.width or box[3] > self.height:
            return super().crop(box)
        left, top, right, bottom = map(round, box)
        return _Picture(np.ascontiguousarray(pixels[top:bottom, left:right]))

    @property
    def __array_interface__(self) -> dict[str, Any]:
        pixels = self._pixels
        if pixels is None:
            return super().__array_interface__
        # The array itself, not its address, so that it lives as long as what numpy makes of it.
        return {"version": 3, "shape": pixels.shape, "typestr": "|u1", "data": pixels}


def _plain_jpeg(image: Image.Image, data: bytes) -> _Picture | None:
    """Return the pixels of a JPEG of three or one 8-bit channels; None where Pillow has to read it."""
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return None
    try:
        return _Picture(simplejpeg.decode_jpeg(data))
    except ValueError:  # of all that libjpeg-turbo warns of, much of which Pillow reads
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise InvalidMediaError(f"a {image.format} of 32-bit pixels, whose range is unknown; accepted: 8 or 16 bits")
    if "transparency" in image.info:
        image = image.convert("RGBA")  # in one step to RGB, Pillow warns of some palettes
    return image.convert("RGB")


def describe(data: bytes) -> str:
    """Return what bytes look like, such as `a PDF (1234 bytes)`, for messages about media that cannot be read."""
    if not data:
        return "an item of 0 bytes"
    head = data[:16]
    known = {
        b"\xff\xd8\xff": "a JPEG",
        b"\x89PNG\r\n\x1a\n": "a PNG",
        b"GIF8": "a GIF",
        b"BM": "a BMP",
        b"II*\0": "a TIFF",
        b"MM\0*": "a TIFF",
        b"%PDF": "a PDF",
        b"PK\x03\x04": "a ZIP archive",
        b"\x1f\x8b": "a gzip file",
        b"\x1aE\xdf\xa3": "a Matroska or WebM video",
    }
    what = next((name for magic, name in known.items() if head.startswith(magic)), None)
    if head[:4] == b"RIFF":
        what = {b"WEBP": "a WebP", b"AVI ": "an AVI video"}.get(head[8:12], "a RIFF file")
    if head[4:8] == b"ftyp":
        what = "a HEIC or AVIF image" if head[8:12] in (b"heic", b"heix", b"mif1", b"avif") else "an MP4 video"
    if what is None:
        sample = data[:64]
        is_text = all(byte >= 32 or byte in b"\t\n\r" for byte in sample) and _is_utf8(data[:512])
        what = (
            f"text beginning {sample[:24].decode('utf-8', 'ignore')!r}"
            if is_text
            else f"data beginning 0x{head[:8].hex()}"
        )
    return f"{what} ({len(data)} bytes)"


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(data) - 3  # the sample ends within a character
    return True
