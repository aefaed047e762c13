"""The parts of a builder's docstring that the registry adds to what the builder itself says."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = ["entries", "merged"]

_SECTION = re.compile(r"\n*^(Args|Returns|Raises):\n", re.MULTILINE)
_SOURCE = re.compile(r"^Sources?: (?:.+(?:\n|\Z))+", re.MULTILINE)
_ENTRY = re.compile(r"^ {4}(?=\S)", re.MULTILINE)


def entries(fn: Callable[..., Any], section: str) -> dict[str, str]:
    """The entries of a section of a function's docstring.

    Args:
        fn: a function with a docstring in Google's style.
        section: `Args` or `Raises`.

    Returns:
        Parameter or error to the sentence about it, on one line.
    """
    text = _sections(fn)[1].get(section, "")
    pairs = (entry.partition(":") for entry in _ENTRY.split(text) if entry.strip())
    return {name: " ".join(says.split()) for name, _, says in pairs}


def merged(
    fn: Callable[..., Any], args: Mapping[str, str], raises: Iterable[Mapping[str, str]], order: Iterable[str]
) -> str:
    """A function's docstring with the paper that its module names, and with further entries among those of its own.

    Args:
        fn: a function with a docstring in Google's style.
        args: parameters to the sentences about them. Where the function has an entry for one, its own entry counts.
        raises: errors to the sentences about them, which follow what is said before about the same errors.
        order: the names of all parameters, such as `weights` and `**kwargs`, in the order in which they are listed.

    Returns:
        The docstring, indented as `inspect.cleandoc` leaves it.
    """
    intro, sections = _sections(fn)
    described = {**args} | {name.lstrip("*"): says for name, says in entries(fn, "Args").items()}
    listed = {name: described[name.lstrip("*")] for name in order if name.lstrip("*") in described}
    failures = entries(fn, "Raises")
    for error, says in (entry for said in raises for entry in said.items()):
        failures[error] = f"{failures[error].removesuffix('.')}; or {says}" if error in failures else says
    source = _SOURCE.search(sys.modules[fn.__module__].__doc__ or "")
    parts = [intro, *([source[0].rstrip()] if source else []), _shown("Args", listed)]
    if "Returns" in sections:
        parts.append("Returns:\n" + sections["Returns"].rstrip())
    return "\n\n".join([*parts, _shown("Raises", failures)])


def _sections(fn: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """What stands before the sections of a docstring, and the text of each section."""
    intro, *rest = _SECTION.split(inspect.cleandoc(fn.__doc__ or ""))
    return intro, dict(zip(rest[::2], rest[1::2], strict=True))


def _shown(section: str, said: Mapping[str, str]) -> str:
    lines = (
        textwrap.fill(f"{name}: {says}", 100, initial_indent=" " * 4, subsequent_indent=" " * 8)
        for name, says in said.items()
    )
    return "\n".join([f"{section}:", *lines])
