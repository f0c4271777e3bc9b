"""Figures as rows, and rows as an aligned table."""

import dataclasses
import statistics


@dataclasses.dataclass
class Row:
    """One figure: samples of ours, and of each peer that was measured in the same run."""

    figure: str
    what: str
    unit: str
    ours: list
    clickhouse: list = None
    duckdb: list = None
    note: str = ""

    def json(self):
        out = {"figure": self.figure, "what": self.what, "unit": self.unit, "note": self.note}
        for name in ("ours", "clickhouse", "duckdb"):
            samples = getattr(self, name)
            if samples:
                out[name] = {"median": statistics.median(samples), "samples": samples}
        return out

    def cells(self):
        return [self.figure, self.what, self.unit, *map(_shown, (self.ours, self.clickhouse, self.duckdb)), self.note]


HEAD = ["figure", "what", "unit", "anabranch", "clickhouse", "duckdb", "note"]
_NUMBERS = range(3, 6)


def _shown(samples):
    """The median, and where there are several the range."""
    if not samples:
        return ""
    text = number(statistics.median(samples))
    if len(samples) > 1:
        text += f" ({number(min(samples))} to {number(max(samples))})"
    return text


def number(value):
    """Three digits or more that mean something, thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def aligned(rows):
    """The table as text."""
    cells = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    lines = []
    for line in cells:
        padded = [
            cell.rjust(width) if column in _NUMBERS else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def latency_rows(figure, what, reports, note=""):
    """Rows of the percentiles that `load` reports."""
    rows = []
    for name, key in (("p50", "p50"), ("p99", "p99"), ("p99.9", "p99_9"), ("max", "max")):
        rows.append(Row(figure, f"{what}, {name}", "ms", [report["latency_ms"][key] for report in reports], note=note))
    return rows
