"""Silence for Pillow's messages on odd files."""

from __future__ import annotations

import logging
import warnings

__all__ = ["quiet_pillow"]


def quiet_pillow() -> None:
    """Silence Pillow's warnings and log lines in this process, in all threads.

    Pillow writes one for each file with broken EXIF data and the like, where all that counts is whether the file can be
    read. PyAV is silent by default.
    """
    # Pillow's warnings name its own modules, never those of its callers.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
