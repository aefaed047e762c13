"""The figures of `serving.py` as data, tables and a chart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any, Final
from xml.sax.saxutils import escape

ROOT: Final = Path(__file__).parent.parent
DATA: Final = ROOT / "docs" / "data" / "bench.json"
PAGE: Final = ROOT / "docs" / "benchmarks.md"
BEGIN: Final = "<!-- scripts/bench --report writes from here -->"
END: Final = "<!-- to here -->"

LIMIT: Final = (("in-process", "pipelined loop"), ("in-process", "one-thread processes"))
"""The better one is the limit."""
SERIES: Final = {
    ("Zoofleet", "calls"): ("Zoofleet, 32 calls at once", "#2f81f7"),
    ("Zoofleet", "stream"): ("Zoofleet, one stream", "#58a6ff"),
    ("Zoofleet", "bulk"): ("Zoofleet, bulk job", "#8b5cf6"),
    ("plain gRPC", "calls"): ("plain gRPC, 32 calls at once", "#d29922"),
    ("plain gRPC", "stream"): ("plain gRPC, one stream", "#b08800"),
    ("LitServe", "calls"): ("LitServe, 32 calls at once", "#db6d28"),
}
"""What the chart has: its name, and a colour that is seen on white and on black."""

Run = Mapping[str, Any]


class Cell:
    """One model at one precision."""

    def __init__(self, record: Run) -> None:
        self.name = f"{record['model']}, {record['media']}, {record['precision']}"
        if record["served"] != record["precision"]:
            self.name += f" (by {record['served']}, than which no plan is faster)"
        self._ways = {(way["contestant"], way["way"]): way for way in record["ways"]}

    def values(self, way: tuple[str, str], figure: str) -> list[Any]:
        return [found[figure] for found in self._ways[way]["rounds"]]

    def rate(self, way: tuple[str, str]) -> float:
        """Items a second: the mean over the rounds."""
        return float(mean(self.values(way, "rate")))

    @property
    def limit(self) -> float:
        return max(self.rate(way) for way in LIMIT)

    def milliseconds(self, way: tuple[str, str]) -> str:
        """The median over the rounds of each percentile."""
        return " / ".join(f"{median(self.values(way, p)) * 1000:.1f}" for p in ("p50", "p95", "p99"))

    def cpu(self, way: tuple[str, str]) -> dict[str, float]:
        """Milliseconds of CPU an item by role: the mean over the rounds."""
        found = self.values(way, "cpu_ms")
        return {role: mean(one[role] for one in found) for role in found[0]}

    def peak(self, way: tuple[str, str]) -> dict[str, int]:
        """The highest peak of resident bytes by role."""
        found = self.values(way, "peak_bytes")
        return {role: max(one[role] for one in found) for role in found[0]}


def add(run: dict[str, Any], path: Path) -> None:
    """Add a run to the data; it takes the place of equal cells of the same machine and commit."""
    runs: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    before = next((other for other in runs if other["machine"] == run["machine"]), None)
    if before is not None:
        runs.remove(before)
        key = ("model", "media", "precision")
        new = {tuple(cell[name] for name in key) for cell in run["cells"]}
        kept = [cell for cell in before["cells"] if tuple(cell[name] for name in key) not in new]
        run = run | {"cells": kept + run["cells"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*runs, run], indent=1) + "\n")


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def tables(run: Run) -> str:
    """The tables of a run, in Markdown."""
    cells = [Cell(record) for record in run["cells"]]
    return "\n".join((_rates(cells), _shares(cells), _latencies(cells), _costs(cells)))


def _rates(cells: Sequence[Cell]) -> str:
    head = {("in-process", "bare model"): "bare model", LIMIT[0]: "pipelined loop", LIMIT[1]: "one-thread processes"}
    head |= {way: name for way, (name, _) in SERIES.items()}
    rows = ([cell.name, *(f"{cell.rate(way):.2f}" for way in head)] for cell in cells)
    return table(["items/s", *head.values()], rows)


def _shares(cells: Sequence[Cell]) -> str:
    head = ["of the limit", *(name for name, _ in SERIES.values())]
    return table(head, ([cell.name, *(f"{cell.rate(way) / cell.limit:.2f}" for way in SERIES)] for cell in cells))


def _latencies(cells: Sequence[Cell]) -> str:
    ways = [(name, way) for way in ("calls", "one call") for name in ("Zoofleet", "plain gRPC", "LitServe")]
    words = {"calls": "32 calls at once", "one call": "one call at a time"}
    head = ["ms: p50 / p95 / p99", *(f"{name}, {words[way]}" for name, way in ways)]
    return table(head, ([cell.name, *(cell.milliseconds(way) for way in ways)] for cell in cells))


def _costs(cells: Sequence[Cell]) -> str:
    def rows() -> Iterator[Sequence[str]]:
        for cell in cells:
            for way in (*LIMIT, *SERIES):
                cpu = ", ".join(f"{role} {value:.2f}" for role, value in cell.cpu(way).items())
                total = sum(cell.cpu(way).values())
                peak = ", ".join(f"{role} {value / 2**20:.0f}" for role, value in cell.peak(way).items())
                yield [f"{cell.name}: {way[0]}, {way[1]}", f"{total:.2f}", cpu, peak]

    return table(["", "CPU ms an item", "of it", "peak resident MiB"], rows())


_ROW, _BAR, _LEFT, _WIDTH = 10, 8, 330, 560
"""Pixels: height of a bar with its gap and without, where bars begin, and how wide one of the limit is."""


def chart(run: Run) -> str:
    """An SVG of each way's share of the limit; the reader's light or dark scheme gives the text its colour."""
    parts = []
    y = 40
    for record in run["cells"]:
        cell = Cell(record)
        top = y
        for way, (name, colour) in SERIES.items():
            share = cell.rate(way) / cell.limit
            width = min(share, 1.25) * _WIDTH
            parts.append(
                f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}">'
                f"<title>{escape(name)}: {cell.rate(way):.2f} items/s, {share:.2f} of the limit</title></rect>"
            )
            parts.append(f'<text x="{_LEFT + width + 4:.1f}" y="{y + _BAR}" class="value">{share:.2f}</text>')
            y += _ROW
        middle = (top + y) / 2
        parts.append(f'<text x="{_LEFT - 10}" y="{middle:.0f}" class="name">{escape(cell.name)}</text>')
        y += _ROW
    legend = []
    for number, (name, colour) in enumerate(SERIES.values()):
        x, line = 20 + 300 * (number % 3), y + 22 + 18 * (number // 3)
        legend.append(f'<rect x="{x}" y="{line - 9}" width="10" height="10" fill="{colour}"/>')
        legend.append(f'<text x="{x + 15}" y="{line}">{escape(name)}</text>')
    limit = _LEFT + _WIDTH
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1080 {y + 60}" '
        'font-family="sans-serif" font-size="12">\n'
        "<style>text{fill:#1f2328}line{stroke:#1f2328}.name{text-anchor:end}.value{font-size:8px}"
        "@media (prefers-color-scheme: dark){text{fill:#e6edf3}line{stroke:#e6edf3}}</style>\n"
        "<title>Throughput as a share of what loops in one process reach</title>\n"
        + "\n".join(parts + legend)
        + f'\n<line x1="{limit}" y1="32" x2="{limit}" y2="{y}" stroke-dasharray="4 3"/>'
        f'\n<text x="{limit}" y="24" text-anchor="middle">the in-process limit</text>\n</svg>\n'
    )


def write() -> None:
    """Draw the page's part and its chart from the last run in the data."""
    run = json.loads(DATA.read_text())[-1]
    machine = run["machine"]
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{PAGE} lacks the lines {BEGIN!r} and {END!r}")
    picture = DATA.with_name("bench.svg")
    picture.write_text(chart(run))
    on = (
        f"Measured on {run['date']}, commit {machine['commit']}: {machine['cpu']} ({machine['isa']}), "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']}, "
        f"torch {machine['torch']}, grpcio {machine['grpcio']}. All of it as data: [bench.json](data/{DATA.name})."
    )
    drawn = f"![Throughput as a share of the in-process limit](data/{picture.name})"
    PAGE.write_text(f"{before}{BEGIN}\n\n{on}\n\n{drawn}\n\n{tables(run)}\n{END}{after}")
