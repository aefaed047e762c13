"""A procedural world of textured shapes with exact ground truth, and what is trained and measured on it."""

import argparse


def whole_number(text: str, least: int = 0) -> int:
    """A command line's whole number.

    Raises:
        argparse.ArgumentTypeError: it is something else, or less than `least`.
    """
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
    return int(text)


def positive(text: str) -> int:
    """A command line's whole number of 1 or more; raises as `whole_number`."""
    return whole_number(text, least=1)
