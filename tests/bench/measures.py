"""What is measured of batch and ingest: each function takes a `Bench` and gives rows of the table.

Every run has a project of its own, so that no run finds what another left.
"""

import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile

from project import VIEW, Project, daemon, generate, run
from runs import Failure, fact_files, say, warm
from table import Row, latency_rows

HERE = os.path.dirname(os.path.abspath(__file__))
END = "2026-11-20T00:00:00Z"

# A day of landings at one each 5 seconds.
DAY_OF_LANDINGS = 17_280


class Bench:
    """The options of a run, its folder, and the files of facts that its figures share."""

    def __init__(self, tools, options, work):
        self.tools = tools
        self.options = options
        self.work = work

    def facts(self, facts, seed=1, span="48h"):
        file = os.path.join(self.work, f"facts-{facts}-{seed}-{span}.ndjson")
        if not os.path.exists(file):
            say(f"generating {facts:,} facts")
        return generate(self.tools, file, facts, seed, END, span)

    @contextlib.contextmanager
    def project(self, parent=None):
        """A new project, removed afterwards."""
        folder = tempfile.mkdtemp(prefix="project-", dir=parent or self.work)
        project = Project(self.tools, os.path.join(folder, "p"))
        try:
            yield project
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def peer(self, *arguments):
        """One command of `peers.py`; its report."""
        return json.loads(run([sys.executable, os.path.join(HERE, "peers.py"), *map(str, arguments)]))

    def runs(self):
        for number in range(self.options.runs):
            say(f"  run {number + 1} of {self.options.runs}")
            yield number


# ---- rebuild ---------------------------------------------------------------


def rebuild(bench):
    facts = bench.options.facts
    file = bench.facts(facts)
    with bench.project() as project:
        ingested = []
        project.configure(batch_memory=bench.options.batch_memory)
        warm([file])
        ingested.append(project.ingest(file))
        rows = _rebuild(bench, "rebuild", project, facts)
    note = "`anabranch ingest` without a daemon"
    rows.append(Row("rebuild", "ingest of the NDJSON file", "s", ingested, note=note))
    rows.append(Row("rebuild", "ingest + rebuild", "s", [ingested[0] + statistics.median(rows[0].ours)]))
    return rows


def small_landings(bench):
    facts, landings = bench.options.facts, bench.options.landings
    file = bench.facts(facts)
    with bench.project() as project:
        _land_in_memory(bench, project, file, landings, -(-facts // landings))
        project.configure(batch_memory=bench.options.batch_memory)
        return _rebuild(bench, "small-landings", project, facts)


def _land_in_memory(bench, project, file, landings, size):
    """Makes the log where a flush to disk costs nothing, and moves it to the disk: only reading it is measured."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else bench.work
    with bench.project(parent=memory) as fast:
        say(f"making {landings:,} landings of {size:,} facts")
        fast.small_landings(file, landings, size)
        shutil.copytree(os.path.join(fast.folder, "data"), os.path.join(project.folder, "data"))
        run(["sync", "-f", project.folder])


def _rebuild(bench, figure, project, facts):
    """Our rebuild and the peers' same GROUP BY in turns, each in a process of its own."""
    seconds = {"ours": [], "clickhouse": [], "duckdb": []}
    memory = {"ours": [], "clickhouse": [], "duckdb": []}
    files = fact_files(project.log)
    size = warm(files)
    groups = states = None
    out = os.path.join(project.folder, "peers")
    for _ in bench.runs():
        report = project.build("rebuild")
        if report["facts"] != facts:
            raise Failure(f"the rebuild read {report['facts']} facts of {facts}; the figures are worthless")
        # A group that comes again in a later unit of the job has several states.
        states = report["states"]
        if groups is None:
            groups = project.command("sql", "-c", f"SELECT count(*) AS groups FROM {VIEW}")[0]["groups"]
        seconds["ours"].append(report["seconds"])
        memory["ours"].append(project.last_job()["peak_memory_bytes"] / 1e6)
        for engine in bench.options.peers:
            theirs = bench.peer("rebuild", "--facts", project.log, "--engine", engine, "--sorted", "--out", out, "--runs", 1)
            if theirs["groups"] != groups:
                raise Failure(f"{engine} found {theirs['groups']} groups, the view has {groups}; the figures are worthless")
            seconds[engine].append(theirs["seconds"]["median"])
            memory[engine].append(theirs["peak_memory_bytes"]["median"] / 1e6)
    note = f"{facts:,} facts in {len(files):,} files, {size / 1e6:,.0f} MB, {groups:,} groups, {states:,} states"
    rate = [facts / sample for sample in seconds["ours"]]
    return [
        Row(figure, "log → published master view", "s", *seconds.values(), note=note),
        Row(figure, "the same as a rate", "facts/s", rate, *([facts / s for s in seconds[e]] for e in ("clickhouse", "duckdb"))),
        Row(figure, "peak memory", "MB", *memory.values(), note=f"bound: {bench.options.batch_memory}"),
    ]


# ---- ingest ----------------------------------------------------------------


def ingest_ndjson(bench):
    return _ingest(bench, "ndjson")


def ingest_arrow(bench):
    return _ingest(bench, "arrow")


def _ingest(bench, body):
    options = bench.options
    file, facts = bench.facts(options.ingest_facts), options.ingest_facts
    reports, theirs = [], []
    for _ in bench.runs():
        with bench.project() as project:
            # The rest of the facts waits this long before it lands, which is no part of the rate.
            project.configure(memory=options.daemon_memory, land_every=options.land_every)
            with daemon(project) as running:
                reports.append(running.load(
                    "ingest", "--file", file, "--format", body, "--connections", options.connections,
                    "--facts-per-request", options.facts_per_request, "--facts", facts,
                ))  # fmt: skip
                if running.counted() != facts:
                    raise Failure(f"the view counts {running.counted()} facts of {facts}; the figures are worthless")
        if body == "ndjson" and "clickhouse" in options.peers:
            report = bench.peer(
                "ingest", "--facts", file, "--engine", "clickhouse", "--block-rows", 100_000,
                "--fsync", "--runs", 1, "--work", bench.work,
            )  # fmt: skip
            theirs.append(report["blocks"][0]["facts_per_second"])
    figure = f"ingest-{body}"
    note = f"{facts:,} facts, {options.facts_per_request} a request, {options.connections} connections, land_every {options.land_every}"
    rows = [
        Row(figure, "until all has landed", "facts/s", [r["landed"]["facts_per_second"] for r in reports], theirs, note=note),
        Row(figure, "until all has landed", "MB/s", [r["landed"]["megabytes_per_second"] for r in reports]),
        Row(figure, "until all is acknowledged", "facts/s", [r["acknowledged"]["facts_per_second"] for r in reports]),
        *latency_rows(figure, "acknowledgement", reports),
    ]
    return rows + cpu_rows(figure, reports, [r["landed"]["seconds"] for r in reports])


def cpu_rows(figure, reports, seconds):
    """How many processors the daemon and the load generator kept busy."""
    rows = []
    for who in ("daemon", "load"):
        used = [report["usage"][who] for report in reports]
        if all(used):
            busy = [(u["user_seconds"] + u["system_seconds"]) / s for u, s in zip(used, seconds)]
            rows.append(Row(figure, f"processors busy: {who}", "", busy))
    return rows
