"""Resource names (https://google.aip.dev/122): `jobs/{job}`, `workers/{worker}` and `models/{builder}`."""

from __future__ import annotations

import re
from typing import Final

from zoofleet.errors import InvalidArgumentError

_JOB_ID: Final = re.compile(r"[0-9a-f]{32}")
_WORKER_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
WORKER_ID_RULE: Final = "1 to 128 letters, digits, '.', '_' or '-'"
"""What `is_worker_id` accepts, in words; the first character is a letter or digit."""


def is_worker_id(text: str) -> bool:
    """Return whether a worker may have this id."""
    return _WORKER_ID.fullmatch(text) is not None


def job_name(job_id: str) -> str:
    """Return `jobs/{job_id}`."""
    return f"jobs/{job_id}"


def worker_name(worker_id: str) -> str:
    """Return `workers/{worker_id}`."""
    return f"workers/{worker_id}"


def model_name(builder: str) -> str:
    """Return `models/{builder}`."""
    return f"models/{builder}"


def parse_job_name(name: str) -> str:
    """Return the id in `jobs/{job}`.

    Raises:
        InvalidArgumentError: the name is not of that form.
    """
    job_id = _id_in("jobs", name)
    if _JOB_ID.fullmatch(job_id) is None:
        raise InvalidArgumentError(f"job name {name[:80]!r} is not written 'jobs/ID' with 32 hex digits")
    return job_id


def parse_worker_name(name: str) -> str:
    """Return the id in `workers/{worker}`.

    Raises:
        InvalidArgumentError: the name is not of that form.
    """
    worker_id = _id_in("workers", name)
    if not is_worker_id(worker_id):
        raise InvalidArgumentError(f"worker name {name[:80]!r} is not written 'workers/ID' with {WORKER_ID_RULE}")
    return worker_id


def parse_model_name(name: str) -> str:
    """Return the builder in `models/{builder}`, whether or not the catalog has it.

    Raises:
        InvalidArgumentError: the name is not of that form.
    """
    builder = _id_in("models", name)
    if not builder or "/" in builder:
        raise InvalidArgumentError(f"model name {name[:80]!r} is not written 'models/BUILDER'")
    return builder


def _id_in(collection: str, name: str) -> str:
    """Return what follows `{collection}/`, or "" where the name does not begin with that."""
    prefix = f"{collection}/"
    return name.removeprefix(prefix) if name.startswith(prefix) else ""
