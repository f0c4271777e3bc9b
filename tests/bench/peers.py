#!/usr/bin/env python3
"""The peers' side of Anabranch's benchmarks: ClickHouse (embedded, `chdb`) and DuckDB on the same facts.

    python=$(tests/bench/setup.sh)       # makes the virtual environment, prints its python
    $python tests/bench/peers.py rebuild    --facts DIR --engine clickhouse|duckdb --out DIR [--sorted]
    $python tests/bench/peers.py ingest     --facts FILE.ndjson --engine clickhouse [--block-rows N,N,…]
    $python tests/bench/peers.py top10      --facts DIR --engine clickhouse [--end TIME]
    $python tests/bench/peers.py check      --facts DIR --engine duckdb --answers FILE.json
    $python tests/bench/peers.py read-delta --table DIR --sql SQL

Each command prints one line of JSON to stdout and its progress to stderr.
Exit codes: 0 done; 1 an answer differs (`check`); 2 it could not be done, with
the reason on stderr.

The facts are Parquet files in one folder: a Delta table, of which the files
that its log names are read, or a plain folder of `part-*.parquet`, or one file.
Columns: ts, url, author, section, referrer, visitor, action, engaged_ms, and
Anabranch's own `_extra`, `_partition`, `_offset`, `_ingested_at`.

How it measures. Seconds are wall time of the statement alone; every run has a
process of its own, so no cache of an engine outlives a run, and the files are
read once beforehand, so the page cache is equally warm for all. `cpu_seconds`
counts all threads: where it is well below `threads` × `seconds`, something
else had the processors (see `machine.load_1m`). `fsync_seconds` is not part of
`seconds`: an export of these engines is not flushed to disk.

rebuild     date_trunc('minute', ts), url, count(*), sum and avg of engaged_ms, distinct
            visitors and max(ts), grouped by the first two, written to one Parquet file (zstd).
            The values are finished: ClickHouse's aggregate states can't be written to Parquet.
            Distinct visitors by `uniqHLL12` (or `--distinct`), DuckDB's by
            `approx_count_distinct`. The file is read back: groups, facts and order are checked.
ingest      NDJSON in blocks into a MergeTree with an AggregatingMergeTree behind a materialized
            view of the same aggregates as states, in a database on disk. Inserts are timed,
            cutting the file into blocks is not. Without `--fsync` ClickHouse acknowledges what
            a loss of power may take back.
top10       the ten most viewed urls of the last 4 hours and their distinct visitors, by merging
            states (countMerge, uniqMerge), on the parts as inserted and after OPTIMIZE FINAL.
check       an oracle: recomputes our answers. FILE.json is a list (or an object, by name) of
            {"sql", "columns", "rows"}, with sql in DuckDB's dialect over the table `facts` and
            with an ORDER BY that leaves no ties. Floats agree to 1e-9, relative; instants are
            ISO 8601, UTC where they name no zone.
read-delta  shows that others can read our tables: the `deltalake` package reads the log of the
            table, DuckDB runs the SQL over it; the table's name in the SQL is `facts` (or `--as`).

Minutes before 1970 and after 2106 don't fit ClickHouse's DateTime (ingest, top10).
"""

import argparse
import datetime
import json
import os
import sys
import traceback

import clickhouse
import duck
from runs import (
    Failure,
    count_rows,
    fact_files,
    figures,
    in_child,
    machine,
    need,
    one_glob,
    say,
    scratch,
    warm,
)

ENGINES = {"clickhouse": clickhouse, "duckdb": duck}


def rebuild(options):
    files = fact_files(options.facts)
    out = os.path.abspath(options.out)
    if out == os.path.dirname(files[0]):
        raise Failure("`--out` is the folder of the facts; give another one")
    os.makedirs(out, exist_ok=True)
    order = "-sorted" if options.sorted else ""
    target = os.path.join(out, f"view-{options.engine}{order}.parquet")
    report = {
        "command": "rebuild",
        "engine": options.engine,
        **_version(options.engine),
        "threads": options.threads,
        "sorted": options.sorted,
        "distinct": options.distinct if options.engine == "clickhouse" else "approx_count_distinct",
        "machine": machine(),
        "facts": {"files": len(files), "rows": count_rows(files), "bytes": warm(files)},
    }
    samples = []
    with one_glob(files) as pattern, scratch(out) as spill:
        for number in range(options.runs):
            # ClickHouse won't write over a file, and an old one must not pass for a result.
            if os.path.exists(target):
                os.remove(target)
            arguments = (pattern, target, options.threads, options.sorted)
            if options.engine == "clickhouse":
                sample = in_child(clickhouse.rebuild_once, *arguments, options.distinct)
            else:
                sample = in_child(duck.rebuild_once, *arguments, spill)
            say(f"rebuild, {options.engine}: run {number + 1} of {options.runs}: {sample['seconds']:.3f} s")
            samples.append(sample)
    report.update(_inspect(target, options.sorted, report["facts"]["rows"]))
    report.update({key: figures([sample[key] for sample in samples]) for key in samples[0]})
    report["facts_per_second"] = round(report["facts"]["rows"] / report["seconds"]["median"])
    return report


def _inspect(target, ordered, rows):
    """Reads the view back: its groups, that they count every fact once, and that they are in order."""
    need("pyarrow")
    import pyarrow.compute as compute
    import pyarrow.parquet as parquet

    view = parquet.ParquetFile(target)
    counted, before = 0, None
    for batch in view.iter_batches(batch_size=1 << 20, columns=["minute", "url", "page_views"]):
        counted += compute.sum(batch.column("page_views")).as_py() or 0
        if not ordered:
            continue
        keys = batch.select(["minute", "url"])
        for earlier, later in ((before, keys.slice(0, 1)), (keys.slice(0, len(keys) - 1), keys.slice(1))):
            if earlier is not None and not _ascends(compute, earlier, later):
                raise Failure(f"`{target}` is not in the order of its keys; the figures are worthless")
        before = keys.slice(len(keys) - 1)
    if counted != rows:
        raise Failure(f"`{target}` counts {counted} facts of {rows}; the figures are worthless")
    return {"groups": view.metadata.num_rows, "output_bytes": os.path.getsize(target)}


def _ascends(compute, earlier, later):
    """Whether each key of `earlier` is below the one beside it in `later`; nulls come last."""
    minute, url = (earlier.column(0), later.column(0)), (earlier.column(1), later.column(1))
    url_less = compute.fill_null(compute.less(*url), compute.is_null(url[1]))
    below = compute.or_(compute.less(*minute), compute.and_(compute.equal(*minute), url_less))
    return compute.all(below, min_count=0).as_py() is True


def ingest(options):
    if not os.path.isfile(options.facts):
        raise Failure(f"`{options.facts}` is not a file; `ingest --facts` wants one of NDJSON")
    report = {
        "command": "ingest",
        "engine": options.engine,
        **_version(options.engine),
        "threads": options.threads,
        "distinct": options.distinct,
        "fsync": options.fsync,
        "machine": machine(),
    }
    warm([options.facts])
    report["blocks"] = []
    for block_rows in options.block_rows:
        samples = []
        for number in range(options.runs):
            with scratch(options.work) as folder:
                sample = in_child(
                    clickhouse.ingest_once, options.facts, folder, options.threads, block_rows,
                    options.limit_rows, options.distinct, options.fsync,
                )  # fmt: skip
            say(
                f"ingest, blocks of {block_rows}: run {number + 1} of {options.runs}: "
                f"{sample['rows'] / sample['seconds']:,.0f} facts/s"
            )
            samples.append(sample)
        block = {"block_rows": block_rows, "rows": samples[0]["rows"], "bytes": samples[0]["bytes"]}
        block.update({key: figures([s[key] for s in samples]) for key in samples[0] if key not in block})
        block["facts_per_second"] = round(block["rows"] / block["seconds"]["median"])
        block["bytes_per_second"] = round(block["bytes"] / block["seconds"]["median"])
        report["blocks"].append(block)
    return report


def top10(options):
    files = fact_files(options.facts)
    report = {
        "command": "top10",
        "engine": options.engine,
        **_version(options.engine),
        "threads": options.threads,
        "distinct": options.distinct,
        "hours": 4,
        "runs": options.runs,
        "machine": machine(),
    }
    rows = count_rows(files)
    warm(files)
    with one_glob(files) as pattern, scratch(options.work) as folder:
        say(f"filling from {rows:,} facts in {len(files)} files")
        report.update(
            in_child(
                clickhouse.top10_once, pattern, folder, options.threads, options.runs,
                options.end, report["hours"], options.distinct,
            )  # fmt: skip
        )
    if report["facts"] != rows:
        raise Failure(f"the states count {report['facts']} facts of {rows}; the figures are worthless")
    return report


def check(options):
    answers = _answers(options.answers)
    files = fact_files(options.facts)
    with one_glob(files) as pattern:
        verdicts = duck.check(answers, pattern, options.threads)
    differing = {name: found for name, found in verdicts if found}
    for name, found in differing.items():
        for sentence in found:
            say(f"{name}: {sentence}")
    return {
        "command": "check",
        "engine": options.engine,
        **duck.version(),
        "answers": len(verdicts),
        "differing": len(differing),
        "differences": differing,
    }


def _answers(file):
    """(name, answer) pairs of the file; an empty file or an incomplete answer is an error, not a success."""
    try:
        with open(file, encoding="utf-8") as stream:
            content = json.load(stream)
    except OSError as error:
        raise Failure(f"`{file}` can't be read: {error.strerror}") from error
    except ValueError as error:
        raise Failure(f"`{file}` is not JSON: {error}") from error
    if isinstance(content, dict):
        answers = list(content.items())
    elif isinstance(content, list):
        answers = [(f"answer {number}", answer) for number, answer in enumerate(content)]
    else:
        answers = []
    if not answers:
        raise Failure(f"`{file}` holds no answers; it wants a list of objects with sql, columns and rows")
    for name, answer in answers:
        fields = {"sql": str, "columns": list, "rows": list}
        if not isinstance(answer, dict) or any(not isinstance(answer.get(f), t) for f, t in fields.items()):
            raise Failure(f"{name} in `{file}` lacks `sql` (text), `columns` (list) or `rows` (list)")
    return answers


def read_delta(options):
    if not os.path.isdir(options.table):
        raise Failure(f"`{options.table}` is not a folder; `--table` wants the folder of a Delta table")
    return {
        "command": "read-delta",
        **duck.read_delta(options.table, options.sql, options.name, options.threads),
    }


def _version(engine):
    return {"version": in_child(ENGINES[engine].version)["version"]}


# ---- the command line ------------------------------------------------------


def _whole(text):
    number = int(text) if text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is not a whole number above 0")
    return number


def _wholes(text):
    return [_whole(part) for part in text.split(",")]


def _seconds(text):
    """An ISO 8601 time, UTC where it names no zone, as seconds since 1970."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"`{text}` is not a time like 2026-03-01T12:00:00Z") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    if moment.microsecond:
        raise argparse.ArgumentTypeError(f"`{text}` has fractions of a second; give whole ones")
    return int(moment.timestamp())


def _parser():
    parser = argparse.ArgumentParser(
        prog="peers.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, function, about, engines=None, runs=5, facts="folder of the facts (or one Parquet file)"):
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(function=function)
        sub.add_argument("--threads", type=_whole, default=2, help="threads of the engine (default 2)")
        if engines:
            sub.add_argument("--facts", required=True, help=facts)
            sub.add_argument("--engine", required=True, choices=engines)
        if runs:
            sub.add_argument("--runs", type=_whole, default=runs, help=f"repetitions (default {runs})")
        return sub

    def distinct(sub, default):
        sub.add_argument(
            "--distinct", choices=clickhouse.DISTINCT, default=default,
            help=f"ClickHouse's function for distinct visitors (default {default})",
        )  # fmt: skip

    def work(sub):
        sub.add_argument("--work", help="folder to put the database under (default: the system's temporary one)")

    sub = command("rebuild", rebuild, "group all facts into one Parquet file", ["clickhouse", "duckdb"])
    sub.add_argument("--out", required=True, help="folder for the Parquet file; made if absent")
    sub.add_argument("--sorted", action="store_true", help="write the groups in the order of minute and url")
    distinct(sub, "uniqHLL12")

    sub = command("ingest", ingest, "insert NDJSON in blocks, with a materialized view", ["clickhouse"], facts="NDJSON file")
    sub.add_argument(
        "--block-rows", type=_wholes, default=[1_000, 10_000, 100_000],
        help="facts a block, several with commas, one series of runs each (default 1000,10000,100000)",
    )  # fmt: skip
    sub.add_argument("--limit-rows", type=_whole, help="use only the first facts of the file")
    sub.add_argument("--fsync", action="store_true", help="flush every part to disk before an insert returns")
    distinct(sub, "uniqHLL12")
    work(sub)

    sub = command("top10", top10, "roll up states of the last 4 hours", ["clickhouse"], runs=20)
    sub.add_argument("--end", type=_seconds, help="end of the 4 hours, exclusive (default: after the last minute)")
    distinct(sub, "uniq")
    work(sub)

    sub = command("check", check, "recompute our answers and compare", ["duckdb"], runs=None)
    sub.add_argument("--answers", required=True, help="JSON file of our answers")

    sub = command("read-delta", read_delta, "run SQL over a Delta table by way of deltalake", runs=None)
    sub.add_argument("--table", required=True, help="folder of the Delta table")
    sub.add_argument("--sql", required=True, help="a query, in DuckDB's dialect")
    sub.add_argument("--as", dest="name", default="facts", help="the table's name in the SQL (default facts)")
    return parser


def main():
    options = _parser().parse_args()
    try:
        report = options.function(options)
    except Failure as failure:
        say(f"peers.py {options.command}: {failure}")
        return 2
    except Exception:
        # Python's own exit code for it would say that an answer differs.
        traceback.print_exc()
        return 2
    print(json.dumps(report, ensure_ascii=False, allow_nan=False))
    return 1 if report.get("differing") else 0


if __name__ == "__main__":
    sys.exit(main())
