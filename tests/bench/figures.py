#!/usr/bin/env python3
"""Measures the figures of the README, side by side with ClickHouse and DuckDB.

    cargo build --release --workspace
    python=$(tests/bench/setup.sh)
    $python tests/bench/figures.py                              # all of them, about two hours
    $python tests/bench/figures.py rebuild top10 --runs 3
    $python tests/bench/figures.py ack --seconds 20 --runs 1 --out figures.json

It makes projects with the view `minute, url → count(*), sum(engaged_ms), avg(engaged_ms),
approx_distinct(visitor), max(ts)` in a temporary folder, generates facts, and prints a table of
medians (and ranges) over the runs; `--out` gets all samples as JSON.

rebuild         the log of `--facts` facts → the published master view; peers run the same GROUP BY
                over the same files into sorted Parquet, 2 threads
small-landings  the same over a log of `--landings` landings
ingest-ndjson   HTTP, until all is acknowledged and until all has landed, the view kept
ingest-arrow    the same with Arrow IPC bodies
ack             latency of acknowledgements at `--rate` facts/s for `--seconds`, open loop
memory          growth of resident memory over distinct groups of the delta, after those seconds
top10           top 10 of the last 4 hours, `--delta-facts` of the facts in the delta; batch only; all absorbed;
                ClickHouse's merge of states; and while ingesting `--rate` facts/s in large and in small requests
lookup          one row by its whole key over HTTP, all absorbed and with `--delta-facts` in the delta
recovery        kill -9 with `--recovery-facts` unabsorbed, a tenth of them unlanded → exact answer
changes         a view that is edited: queries and acknowledgements beside its build, the comparison of both
                generations, cut-over and roll-back as a client sees them that asks 100 times a second
checksums       a rebuild over a log with its checksums, and over the same files without
sums            a rebuild of a view with a sum, and with a maximum in its place
late-fields     a rebuild over facts whose fields were declared when they came, and later
many            a daemon and commands over `--many-topics` topics and `--many-views` views that hold little
landing         a landing's commit, besides its Parquet, at 10 files in the log, a twentieth of `--log-files`, and all of them

Exit codes: 0 done; 2 a figure could not be measured, with the reason on stderr.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time

import measures
import measures_changes
import measures_kept
import measures_live
import measures_many
from project import Tools
from runs import Failure, machine, say
from table import aligned

FIGURES = {
    "rebuild": measures.rebuild,
    "small-landings": measures.small_landings,
    "ingest-ndjson": measures.ingest_ndjson,
    "ingest-arrow": measures.ingest_arrow,
    "ack": measures_live.ack,
    "memory": measures_live.memory,
    "top10": measures_live.top10,
    "lookup": measures_live.lookup,
    "recovery": measures_live.recovery,
    "landing": measures_live.landing,
    "changes": measures_changes.changes,
    "checksums": measures_kept.checksums,
    "sums": measures_kept.sums,
    "late-fields": measures_kept.late_fields,
    "many": measures_many.many,
}
PEERS = ["clickhouse", "duckdb"]


def _whole(text):
    number = int(text.replace("_", "")) if text.replace("_", "").isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is not a whole number above 0")
    return number


def _target():
    """Cargo's target folder, as `.cargo` and the environment may set it."""
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    return os.environ.get("CARGO_TARGET_DIR") or os.path.join(root, "target")


def parser():
    out = argparse.ArgumentParser(prog="figures.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("figures", nargs="*", metavar="FIGURE", help=f"{', '.join(FIGURES)} (default: all)")
    release = os.path.join(_target(), "release")
    out.add_argument("--anabranch", default=os.path.join(release, "anabranch"), help="the binary (default: cargo's release)")
    out.add_argument("--load", help="the load generator (default: beside `--anabranch`)")
    out.add_argument("--runs", type=_whole, default=5, help="repetitions (default 5)")
    out.add_argument("--work", help="folder for facts and projects, on the disk to measure; generated facts are kept there")
    out.add_argument("--out", help="file for the figures as JSON")
    out.add_argument("--no-peers", dest="peers", action="store_const", const=[], default=PEERS, help="leave the peers out")

    def size(name, default, about):
        out.add_argument(f"--{name}", type=_whole, default=default, help=f"{about} (default {default})")

    size("facts", 20_000_000, "facts of rebuild, small-landings, top10, checksums, sums and late-fields")
    size("landings", measures.DAY_OF_LANDINGS, "landings of small-landings")
    size("ingest-facts", 5_000_000, "facts of ingest-ndjson and ingest-arrow")
    size("facts-per-request", 1_000, "facts of a request of those")
    size("connections", 8, "connections of those")
    size("rate", 50_000, "facts a second of ack, memory and top10")
    size("seconds", 300, "seconds of ack and memory")
    size("delta-facts", 1_000_000, "facts in the delta of top10")
    size("times", 50, "queries of a run of top10")
    size("lookups", 2_000, "look-ups of a run of lookup")
    size("busy-seconds", 60, "most seconds of ingest beside the queries of top10")
    size("log-files", 20_000, "files of the largest log of landing")
    size("change-facts", 20_000_000, "facts of changes")
    size("change-rate", 2_000, "facts a second that come in meanwhile")
    size("change-seconds", 20, "most seconds of each measurement of changes")
    size("many-topics", 500, "topics of many")
    size("many-views", 300, "views of many")
    size("recovery-facts", 5_000_000, "facts of recovery")
    out.add_argument("--land-every", default="1s", help="the daemon's `land_every` of ingest-ndjson and ingest-arrow (default 1s)")
    out.add_argument("--daemon-memory", default="2GB", help="the daemon's bound (default 2GB)")
    out.add_argument("--batch-memory", default="1GiB", help="the rebuild's bound (default 1GiB)")
    return out


def _measure(bench, names):
    rows, failures = [], {}
    for name in names:
        say(f"{name}:")
        begun = time.perf_counter()
        try:
            rows.extend(FIGURES[name](bench))
        except Failure as failure:
            # The other figures are still worth having.
            say(f"figures.py {name}: {failure}")
            failures[name] = str(failure)
        say(f"  took {time.perf_counter() - begun:.0f} s")
    return rows, failures


def main():
    options = parser().parse_args()
    names = options.figures or list(FIGURES)
    unknown = [name for name in names if name not in FIGURES]
    work = None
    try:
        if unknown:
            raise Failure(f"no figure `{unknown[0]}`; there are: {', '.join(FIGURES)}")
        load = options.load or os.path.join(os.path.dirname(options.anabranch), "load")
        tools = Tools(options.anabranch, load)
        if options.work:
            os.makedirs(options.work, exist_ok=True)
        work = options.work or tempfile.mkdtemp(prefix="anabranch-figures-")
        weight = machine()
        rows, failures = _measure(measures.Bench(tools, options, os.path.abspath(work)), names)
    except Failure as failure:
        say(f"figures.py: {failure}")
        return 2
    finally:
        if work and not options.work:
            shutil.rmtree(work, ignore_errors=True)
    if rows:
        print(aligned(rows))
    if options.out:
        report = {"machine": weight, "options": vars(options), "rows": [row.json() for row in rows], "failures": failures}
        with open(options.out, "w", encoding="utf-8") as stream:
            json.dump(report, stream, indent=1, ensure_ascii=False)
    return 2 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
