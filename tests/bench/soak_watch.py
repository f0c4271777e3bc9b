"""What a soak saw: its samples as CSV and as a picture, and whether they stayed flat."""

import csv
import dataclasses
import statistics

# Of a sample. What could not be measured, because the daemon was away, is None.
FIELDS = ["seconds", "memory_bytes", "log_files", "all_files", "freshness_seconds", "visible", "acknowledged", "lag_facts", "descriptors"]


@dataclasses.dataclass(frozen=True)
class Flat:
    """How much more the last third's median may be than the middle third's: a factor, and an amount."""

    field: str
    title: str
    factor: float
    amount: float
    scale: float = 1.0


# The log itself grows, so its files may, slowly; a count that grows with time as such is 1.67 times as large.
FLAT = [
    Flat("memory_bytes", "memory of the daemon (MB)", 1.25, 64e6, 1e6),
    Flat("log_files", "data files in the log's folder", 1.3, 30),
    Flat("freshness_seconds", "produced → visible by SQL (s)", 1.5, 0.5),
    Flat("lag_facts", "acknowledged, not yet visible (facts)", 1.5, 20_000),
]


def third(samples, field, nth):
    """The values of a field in the first, second or last third of the time."""
    if not samples:
        return []
    end = max(sample["seconds"] for sample in samples)
    low, high = end * nth / 3, end * (nth + 1) / 3
    inside = [s for s in samples if low <= s["seconds"] < high or (nth == 2 and s["seconds"] == end)]
    return [s[field] for s in inside if s[field] is not None]


def verdicts(samples, slack=1):
    """For each measure: its medians in the middle and the last third, and whether that is flat; `slack` times its amount."""
    out = []
    for flat in FLAT:
        middle, last = third(samples, flat.field, 1), third(samples, flat.field, 2)
        if not middle or not last:
            out.append({"what": flat.title, "flat": False, "why": "never measured"})
            continue
        middle, last = statistics.median(middle), statistics.median(last)
        limit = middle * flat.factor + flat.amount * slack
        out.append({
            "what": flat.title, "middle": middle / flat.scale, "last": last / flat.scale,
            "limit": limit / flat.scale, "flat": last <= limit,
        })  # fmt: skip
    return out


def write_csv(path, samples):
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, FIELDS)
        writer.writeheader()
        writer.writerows(samples)


# ---- the picture -----------------------------------------------------------

WIDTH, HEIGHT, LEFT, GAP = 900, 130, 70, 44


def svg(samples, events):
    """The measures over time, one below the other; `events` are (seconds, kind)."""
    end = max([s["seconds"] for s in samples] + [1])
    colours = {"kill": "#d33", "rebuild": "#27c", "maintain": "#9a9"}
    parts = []
    for nth, flat in enumerate(FLAT):
        top = 40 + nth * (HEIGHT + GAP)
        parts.append(_panel(samples, events, flat, top, end, colours))
    height = 40 + len(FLAT) * (HEIGHT + GAP)
    legend = "".join(
        f'<text x="{LEFT + 190 * n}" y="18" fill="{colour}">{kind}</text>' for n, (kind, colour) in enumerate(colours.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 20}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>{legend}{"".join(parts)}</svg>\n'
    )


def _panel(samples, events, flat, top, end, colours):
    values = [(s["seconds"], s[flat.field]) for s in samples]
    most = max([v for _, v in values if v is not None] + [1e-9])

    def x(seconds):
        return LEFT + WIDTH * seconds / end

    def y(value):
        return top + HEIGHT * (1 - value / most)

    marks = "".join(
        f'<line x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{top}" y2="{top + HEIGHT}" stroke="{colours[kind]}" stroke-width="1" opacity="0.5"/>'
        for at, kind in events
        if kind in colours
    )
    runs, run = [], []
    for seconds, value in values:
        if value is None:
            runs.append(run)
            run = []
        else:
            run.append(f"{x(seconds):.1f},{y(value):.1f}")
    lines = "".join(
        f'<polyline fill="none" stroke="#222" stroke-width="1.2" points="{" ".join(points)}"/>' for points in [*runs, run] if points
    )
    return (
        f'<text x="{LEFT}" y="{top - 6}">{flat.title}</text>'
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#bbb"/>{marks}{lines}'
        f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{_short(most / flat.scale)}</text>'
        f'<text x="{LEFT - 6}" y="{top + HEIGHT}" text-anchor="end">0</text>'
        f'<text x="{LEFT + WIDTH}" y="{top + HEIGHT + 14}" text-anchor="end">{end / 60:.1f} min</text>'
    )


def _short(number):
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"
