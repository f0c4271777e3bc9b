"""What it costs to keep facts and states as they are kept: checksums, sums that never wrap, and fields that are
declared after their facts came."""

import glob
import json
import os
import shutil

from project import VIEW, VIEW_SQL, run
from runs import Failure, say
from table import Row

# A sum, and in its place an aggregate of the engine's own that holds as many bytes as the value.
SUMS = VIEW_SQL.replace("avg(engaged_ms) AS engaged_mean_ms,\n       ", "")
MAXIMA = SUMS.replace("sum(engaged_ms) AS engaged_ms", "max(engaged_ms) AS engaged_ms")

# Two fields that may come late.
LATE = ("section", "referrer")
OF_LATE = """\
SELECT date_trunc('minute', ts) AS minute, section, count(*) AS page_views,
       count(referrer) AS referred, sum(engaged_ms) AS engaged_ms
FROM pageviews GROUP BY 1, 2
"""

# How a file of Parquet and its entry in the table's log name their checksums.
PIECES = b"anabranch.crc32c"
TAIL, COMMIT = "anabranch.tail", "anabranchCrc32c"


def checksums(bench):
    """A rebuild over a log with its checksums, and over the same files without."""
    facts = bench.options.facts
    file = bench.facts(facts)
    with bench.project() as kept, bench.project() as bare:
        for project in (kept, bare):
            project.configure(batch_memory=bench.options.batch_memory)
        kept.ingest(file)
        shutil.copytree(os.path.join(kept.folder, "data"), os.path.join(bare.folder, "data"))
        _without_checksums(bare.log)
        took = {"kept": [], "bare": []}
        for _ in bench.runs():
            took["kept"].append(_rebuilt(kept, facts))
            took["bare"].append(_rebuilt(bare, facts))
    return _compared("checksums", "rebuild", took["bare"], took["kept"], "without checksums", "with them", facts)


def _without_checksums(log):
    """Takes the checksums out of a table, as a version wrote it that had none."""
    for path in glob.glob(os.path.join(log, "part-*.parquet")):
        with open(path, "rb") as stream:
            data = stream.read()
        if PIECES not in data:
            raise Failure(f"`{path}` has no checksums to take out")
        with open(path, "wb") as stream:
            # A name of the same length that nobody looks for.
            stream.write(data.replace(PIECES, b"x" * len(PIECES)))
    for path in glob.glob(os.path.join(log, "_delta_log", "*.json")):
        with open(path, encoding="utf-8") as stream:
            actions = [json.loads(line) for line in stream]
        for action in actions:
            action.get("commitInfo", {}).pop(COMMIT, None)
            (action.get("add", {}).get("tags") or {}).pop(TAIL, None)
        with open(path, "w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(action) + "\n" for action in actions)
    for path in glob.glob(os.path.join(log, "_delta_log", "*checkpoint*")):
        os.remove(path)


def sums(bench):
    """A rebuild of a view with a sum, and with a maximum of the same column in its place."""
    facts = bench.options.facts
    file = bench.facts(facts)
    took = {SUMS: [], MAXIMA: []}
    with bench.project() as summed, bench.project() as greatest:
        for project, sql in ((summed, SUMS), (greatest, MAXIMA)):
            project.configure(batch_memory=bench.options.batch_memory)
            _write(project, sql)
        summed.ingest(file)
        shutil.copytree(os.path.join(summed.folder, "data"), os.path.join(greatest.folder, "data"))
        for _ in bench.runs():
            took[SUMS].append(_rebuilt(summed, facts))
            took[MAXIMA].append(_rebuilt(greatest, facts))
    return _compared("sums", "rebuild", took[MAXIMA], took[SUMS], "max(engaged_ms)", "sum(engaged_ms)", facts)


def late_fields(bench):
    """A rebuild over facts whose fields were declared when they came, and over such as were declared later."""
    facts = bench.options.facts
    file = bench.facts(facts)
    took = {"early": [], "late": []}
    with bench.project() as early, bench.project() as late:
        for project in (early, late):
            project.configure(batch_memory=bench.options.batch_memory)
            _write(project, OF_LATE)
        settings = os.path.join(late.folder, "anabranch.toml")
        with open(settings, encoding="utf-8") as stream:
            whole = stream.read()
        lines = whole.splitlines(keepends=True)
        with open(settings, "w", encoding="utf-8") as stream:
            stream.writelines(line for line in lines if not line.startswith((*LATE, "[views", "sql =")))
        early.ingest(file)
        late.ingest(file)
        with open(settings, "w", encoding="utf-8") as stream:
            stream.write(whole)
        for _ in bench.runs():
            took["early"].append(_rebuilt(early, facts))
            took["late"].append(_rebuilt(late, facts))
        asked = f"SELECT section, page_views, referred FROM {VIEW} ORDER BY minute, section NULLS FIRST LIMIT 100"
        if early.command("sql", "-c", asked) != late.command("sql", "-c", asked):
            raise Failure("the two answers differ; the figures are worthless")
    return _compared("late-fields", "rebuild", took["early"], took["late"], "declared before", "declared after", facts)


def _write(project, sql):
    with open(os.path.join(project.folder, f"{VIEW}.sql"), "w", encoding="utf-8") as stream:
        stream.write(sql)


def _rebuilt(project, facts):
    """Seconds of a rebuild, which has read all facts."""
    run(["sync", "-f", project.folder])
    report = project.build("rebuild")
    if report["facts"] != facts:
        raise Failure(f"the rebuild read {report['facts']} facts of {facts}; the figures are worthless")
    say(f"    {report['seconds']:.2f} s")
    return report["seconds"]


def _compared(figure, what, before, after, first, second, facts):
    """Rows of both, and of what the second takes of the first, run by run."""
    return [
        Row(figure, f"{what}, {first}", "s", before, note=f"{facts:,} facts"),
        Row(figure, f"{what}, {second}", "s", after),
        Row(figure, f"{what}, {second} over {first}", "", [b / a for a, b in zip(before, after)]),
    ]
