"""What a load test found, out of its samples."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

import numpy as np

__all__ = ["Distribution", "Sample", "Summary"]

_PERCENTILES: Final = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99_9": 99.9}
_BUSY_CLIENT: Final = 0.85
"""Share of one core from which on the client, whose event loop has one thread, may be what limits the rate."""
_LATE: Final = 0.005
"""Seconds behind its schedule, at the 99th percentile, from which on the client is said to lag. What is shorter is the
timer's and the operating system's."""
_BEHIND: Final = 0.98
"""Share of the asked rate below which the client is said not to have reached it."""


class Sample(NamedTuple):
    """One request: a call, an item of a stream, or a job. Times are seconds of one monotonic clock.

    Attributes:
        intended: when its turn to be sent was. In a closed loop the same as `sent`.
        sent: when it was sent.
        ended: when its last result had come.
        precisions: what each item that was answered ran at, such as `PRECISION_EXACT`.
        errors: the status code of each item that was not, such as `UNAVAILABLE`.
    """

    intended: float
    sent: float
    ended: float
    precisions: tuple[str, ...]
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Distribution:
    """Seconds of many requests. The percentiles are exact: all samples are kept, none is put into a bucket."""

    min: float
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    p99_9: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Distribution:
        """Return the distribution of seconds; NaN throughout where there are none."""
        if not seconds:
            return cls(*[math.nan] * 8)
        values = np.array(seconds)
        # The next sample, not a mix of two: a percentile is then a latency that a request has had, and never too low.
        found = np.percentile(values, list(_PERCENTILES.values()), method="higher")
        percentiles = dict(zip(_PERCENTILES, found.tolist(), strict=True))
        return cls(min=float(values.min()), mean=float(values.mean()), max=float(values.max()), **percentiles)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a load test found. Seconds unless said otherwise; the warm-up counts nowhere.

    Attributes:
        duration: from the end of the warm-up to the last answer.
        request_count: requests that ended, with and without errors.
        item_count: items that were answered.
        error_count: items that were not.
        asked_rate: requests a second that the client was to send. None in a closed loop.
        rate: requests a second that it sent.
        throughput: items answered a second.
        latency: of requests without an error, from when each was to be sent: what users feel who do not wait for each
            other. Where the server or the client stalls, what was to be sent meanwhile counts with its wait.
        service_time: of the same, from when each was sent. Beside `latency` in an open loop: a stall is seen by those
            requests alone that had been sent already.
        lag: how far behind its schedule the client began each request, before any wait for `concurrency`. Of an open
            loop alone.
        codes: number of items by status code, `OK` among them.
        precisions: number of answered items by the precision that they ran at.
        client_cpu: CPU seconds of the client's process a second; 1 is one core.
        is_cut_short: whether it was interrupted.
    """

    duration: float
    request_count: int
    item_count: int
    error_count: int
    asked_rate: float | None
    rate: float
    throughput: float
    latency: Distribution
    service_time: Distribution
    lag: Distribution
    codes: Mapping[str, int]
    precisions: Mapping[str, int]
    client_cpu: float
    is_cut_short: bool = False

    @classmethod
    def of(
        cls,
        samples: Sequence[Sample],
        *,
        began: float,
        ended: float,
        lags: Sequence[float],
        asked_rate: float | None,
        client_cpu: float,
        is_cut_short: bool = False,
    ) -> Summary:
        """Summarize samples.

        Args:
            samples: those of requests whose turn came after the warm-up.
            began: when the warm-up was over.
            ended: when the last request was sent or its turn would have come.
            lags: seconds behind the schedule, of each request of an open loop.
            asked_rate: requests a second; None in a closed loop.
            client_cpu: CPU seconds a second.
            is_cut_short: whether it was interrupted.
        """
        last = max((sample.ended for sample in samples), default=ended)
        duration = max(last, ended) - began
        sending = max(ended - began, 1e-9)
        good = [sample for sample in samples if not sample.errors]
        codes = Counter(code for sample in samples for code in sample.errors)
        precisions = Counter(precision for sample in samples for precision in sample.precisions)
        item_count = precisions.total()
        return cls(
            duration=duration,
            request_count=len(samples),
            item_count=item_count,
            error_count=codes.total(),
            asked_rate=asked_rate,
            rate=len(samples) / sending,
            throughput=item_count / max(duration, 1e-9),
            latency=Distribution.of([sample.ended - sample.intended for sample in good]),
            service_time=Distribution.of([sample.ended - sample.sent for sample in good]),
            lag=Distribution.of(lags),
            codes={"OK": item_count, **dict(sorted(codes.items()))},
            precisions=dict(sorted(precisions.items())),
            client_cpu=client_cpu,
            is_cut_short=is_cut_short,
        )

    @property
    def warnings(self) -> list[str]:
        """Why the figures may be the client's rather than the server's."""
        found = []
        if self.client_cpu > _BUSY_CLIENT:
            found.append(
                f"the client took {self.client_cpu:.2f} cores; its event loop has one, so it may be what limits the "
                "rate: run several clients"
            )
        if self.lag.p99 > _LATE:
            found.append(
                f"the client was {self.lag.p99 * 1000:.0f} ms behind its schedule at p99, which the latencies contain: "
                "give it a core of its own, or run several clients"
            )
        if self.asked_rate is not None and self.rate < _BEHIND * self.asked_rate and not self.is_cut_short:
            found.append(f"{self.rate:.2f} requests/s were sent, not {self.asked_rate:g}")
        return found

    def to_json(self, **beside: Any) -> str:
        """Return all numbers, and what is given beside them, as JSON; what was not measured is null."""
        record = beside | asdict(self) | {"warnings": self.warnings}
        return json.dumps(_without_nan(record), indent=1) + "\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
