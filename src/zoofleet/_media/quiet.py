"""Nothing that Pillow says of odd files reaches the console."""

from __future__ import annotations

import logging
import warnings

__all__ = ["quiet_pillow"]


def quiet_pillow() -> None:
    """Silence Pillow's warnings and log lines in this process, in all threads.

    They would come once a file, of broken EXIF data and the like; whether the file can be read is all that counts.
    PyAV says nothing unless it is asked to.
    """
    # Pillow warns from its own modules: none of its warnings names a caller's.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
