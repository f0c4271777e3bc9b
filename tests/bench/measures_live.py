"""What is measured of a running daemon: acknowledgements, memory, queries, recovery, landing."""

import http.client
import json
import os
import re
import statistics
import time
import urllib.parse

from measures import END, cpu_rows
from project import VIEW, Daemon, daemon
from runs import Failure, percentile, say
from table import Row, latency_rows

TOP10 = (
    f"SELECT url, sum(page_views) AS page_views, combine(visitors) AS visitors FROM {VIEW} "
    f"WHERE minute >= TIMESTAMP '{END}' - INTERVAL '4 hours' AND minute < TIMESTAMP '{END}' "
    "GROUP BY url ORDER BY page_views DESC, url LIMIT 10"
)

# Facts of one request, while queries are timed: of a producer that gathers some, and of many that hardly do.
BUSY_REQUESTS = (1_000, 50)

# Landings at each size of the log are timed for so long.
LANDING_SECONDS = 8


# ---- acknowledgements and memory under an open loop -------------------------


def ack(bench):
    return _open_loop(bench, "ack")


def memory(bench):
    return _open_loop(bench, "memory")


def _open_loop(bench, figure):
    """Both figures come out of the same minutes of load; the second one asked for finds them measured."""
    if not hasattr(bench, "open_loop"):
        bench.open_loop = _measure_open_loop(bench)
    return bench.open_loop[figure]


def _measure_open_loop(bench):
    options = bench.options
    file = bench.facts(int(options.rate * options.seconds))
    reports, bytes_a_group, grown, groups = [], [], [], []
    for _ in bench.runs():
        with bench.project() as project:
            project.configure(memory=options.daemon_memory)
            with daemon(project) as running:
                before = running.resident_bytes()
                reports.append(running.load(
                    "open", "--file", file, "--rate", options.rate, "--connections", 64, "--seconds", options.seconds,
                ))  # fmt: skip
                running.await_landed()
                after = running.resident_bytes()
                # Asked only now: a query would add its own memory.
                groups.append(running.sql(f"SELECT count(*) AS groups FROM {VIEW}")[0]["groups"])
                grown.append((after - before) / 1e6)
                bytes_a_group.append((after - before) / groups[-1])
    note = f"{options.rate:,} facts/s for {options.seconds} s, 64 connections"
    late = [report["late"] for report in reports]
    return {
        "ack": [
            *latency_rows("ack", "from the due time", reports, note),
            Row("ack", "requests sent late", "", late, note=f"of {reports[0]['latency_ms']['count']:,}"),
            *cpu_rows("ack", reports, [r["seconds"] for r in reports]),
        ],
        "memory": [
            Row("memory", "growth of resident memory over groups of the delta", "bytes", bytes_a_group, note=note),
            Row("memory", "growth of resident memory", "MB", grown),
            Row("memory", "distinct groups of the delta", "", groups),
        ],
    }


# ---- look-ups --------------------------------------------------------------


def lookup(bench):
    """One row by its whole key, `GET /views/VIEW?minute=…&url=…`, over one connection; all absorbed, and with some in
    the delta."""
    options = bench.options
    in_delta = min(options.delta_facts, options.facts // 2)
    master, delta = _cut(bench, bench.facts(options.facts), options.facts - in_delta)
    absorbed, merged = [], []
    with bench.project() as project:
        project.configure(memory=options.daemon_memory, batch_memory=options.batch_memory)
        project.ingest(master)
        project.build("rebuild")
        with daemon(project) as running:
            keys = _keys(running, options.lookups)
            groups = running.sql(f"SELECT count(*) AS groups FROM {VIEW}")[0]["groups"]
            for _ in bench.runs():
                absorbed.append(_looked_up(running, keys))
            running.load("ingest", "--file", delta, "--format", "arrow")
            running.await_landed()
            for _ in bench.runs():
                merged.append(_looked_up(running, keys))
    note = f"{groups:,} keys, {len(keys):,} look-ups a run"
    return [
        Row("lookup", "all absorbed, p50", "ms", [percentile(took, 0.5) for took in absorbed], note=note),
        Row("lookup", "all absorbed, p99", "ms", [percentile(took, 0.99) for took in absorbed]),
        Row("lookup", "merged, p50", "ms", [percentile(took, 0.5) for took in merged], note=f"{in_delta:,} facts in the delta"),
        Row("lookup", "merged, p99", "ms", [percentile(took, 0.99) for took in merged]),
    ]  # fmt: skip


def _keys(running, wanted):
    """Paths of that many rows, from all over the view."""
    # Of every so many rows one, in no order of theirs.
    rows = running.sql(f"SELECT minute, url FROM {VIEW} ORDER BY digest(concat(url, CAST(minute AS varchar)), 'md5') LIMIT {wanted}")
    if len(rows) < wanted:
        raise Failure(f"the view has only {len(rows)} rows; raise `--facts`")
    return [f"/views/{VIEW}?{urllib.parse.urlencode(row)}" for row in rows]


def _looked_up(running, paths):
    """Milliseconds of each look-up, once the first few have warmed what is kept."""
    place = urllib.parse.urlsplit(running.url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    took = []
    for path in paths[:20] + paths:
        begun = time.perf_counter()
        connection.request("GET", path, headers={"accept": "application/json"})
        answer = connection.getresponse()
        rows = json.loads(answer.read())
        took.append((time.perf_counter() - begun) * 1e3)
        if answer.status != 200 or len(rows) != 1:
            raise Failure(f"`{path}` was answered with {answer.status}: {rows}")
    connection.close()
    return took[20:]


# ---- top 10 ----------------------------------------------------------------


def top10(bench):
    """48 hours of facts, the last of them in the delta; idle, and with facts coming in."""
    options = bench.options
    in_delta = min(options.delta_facts, options.facts // 2)
    master, delta = _cut(bench, bench.facts(options.facts), options.facts - in_delta)
    times = {"merged": [], "batch": [], **{size: [] for size in BUSY_REQUESTS}}
    tails = {"merged": [], **{size: [] for size in BUSY_REQUESTS}}
    theirs = []
    with bench.project() as project:
        project.configure(memory=options.daemon_memory, batch_memory=options.batch_memory)
        say("landing and absorbing the older facts")
        project.ingest(master)
        project.build("rebuild")
        with daemon(project) as running:
            running.load("ingest", "--file", delta, "--format", "arrow")
            if running.counted() != options.facts:
                raise Failure(f"the view counts {running.counted()} facts of {options.facts}; the figures are worthless")
            behind = running.metric("anabranch_view_behind_offsets")
            for _ in bench.runs():
                for read in ("merged", "batch"):
                    report = running.load("query", "-c", TOP10, "--times", options.times, "--read", read)
                    times[read].append(report["median_ms"])
                    if read == "merged":
                        tails[read].append(report["p99_ms"])
                if "clickhouse" in options.peers:
                    report = bench.peer("top10", "--facts", project.log, "--engine", "clickhouse", "--runs", options.times, "--end", END, "--work", bench.work)
                    theirs.append(report["optimized"]["seconds"]["median"] * 1e3)
                    _compare(running.sql(TOP10), report["rows"])
            for size in BUSY_REQUESTS:
                say(f"  the same while facts come in, {size:,} a request")
                for _ in bench.runs():
                    report = _while_ingesting(bench, running, size)
                    times[size].append(report["median_ms"])
                    tails[size].append(report["p99_ms"])
            grown = running.metric("anabranch_view_behind_offsets")
    absorbed = _absorbed(bench, master, delta)
    over = lambda others: [merged / other for merged, other in zip(times["merged"], others)]
    note = f"{options.facts:,} facts, {behind:,.0f} of them in the delta"
    return [
        Row("top10", "merged, median", "ms", times["merged"], theirs, note=note),
        Row("top10", "merged, p99", "ms", tails["merged"]),
        Row("top10", "batch only, median", "ms", times["batch"], note="without the facts in the delta"),
        Row("top10", "merged over batch only", "", over(times["batch"])),
        Row("top10", "batch only of all facts, median", "ms", absorbed, note="the same facts, all of them absorbed"),
        Row("top10", "merged over batch only of all facts", "", over(absorbed)),
        *[row for size in BUSY_REQUESTS for row in (
            Row("top10", f"at {options.rate:,} facts/s, {size:,} a request, median", "ms", times[size], note=f"the delta grows to {grown:,.0f} facts"),
            Row("top10", f"at {options.rate:,} facts/s, {size:,} a request, p99", "ms", tails[size]),
        )],
    ]  # fmt: skip


def _absorbed(bench, *files):
    """The medians of the same query where nothing is in the delta."""
    options = bench.options
    say("  the same with all facts absorbed")
    with bench.project() as project:
        project.configure(memory=options.daemon_memory, batch_memory=options.batch_memory)
        for file in files:
            project.ingest(file)
        project.build("rebuild")
        with daemon(project) as running:
            runs = [running.load("query", "-c", TOP10, "--times", options.times, "--read", "batch") for _ in bench.runs()]
    return [report["median_ms"] for report in runs]


def _cut(bench, file, first):
    """The file's first facts and the rest, as two files."""
    stem, _ = os.path.splitext(file)
    names = [f"{stem}-until-{first}.ndjson", f"{stem}-from-{first}.ndjson"]
    if not all(os.path.exists(name) for name in names):
        with open(file, "rb") as lines, open(names[0], "wb") as head, open(names[1], "wb") as rest:
            for number, line in enumerate(lines):
                (head if number < first else rest).write(line)
    return names


def _compare(ours, theirs):
    """The same urls with the same views; visitors are estimates of two kinds, at most 5 % apart."""
    for mine, (url, views, visitors) in zip(ours, theirs, strict=True):
        if (mine["url"], mine["page_views"]) != (url, views) or abs(mine["visitors"] - visitors) > 0.05 * visitors:
            raise Failure(f"the answers differ: {mine} here, {[url, views, visitors]} there; the figures are worthless")


def _while_ingesting(bench, running, size):
    options = bench.options
    file = bench.facts(options.rate * options.busy_seconds, seed=2)
    beside = running.load_beside(
        "open", "--file", file, "--rate", options.rate, "--seconds", options.busy_seconds, "--facts-per-request", size,
    )  # fmt: skip
    try:
        # The load has prepared its requests once facts arrive.
        before = running.metric("anabranch_acknowledged_offset")
        while running.metric("anabranch_acknowledged_offset") == before:
            if beside.poll() is not None:
                raise Failure(f"the load generator ended with {beside.returncode} before it sent anything")
            time.sleep(0.05)
        report = running.load("query", "-c", TOP10, "--times", options.times, "--warm-up", 0)
        if beside.poll() is not None:
            raise Failure("the load ended before the queries did; raise `--busy-seconds` or lower `--times`")
        return report
    finally:
        # What it would still send is not needed, and would only make the next run's delta larger.
        beside.kill()
        beside.communicate()


# ---- recovery --------------------------------------------------------------


def recovery(bench):
    """kill -9 with facts unabsorbed and some of them unlanded, until an exact answer."""
    options = bench.options
    total = options.recovery_facts
    unlanded = total // 10
    landed_file, unlanded_file = _cut(bench, bench.facts(total), total - unlanded)
    seconds, ready, resident = [], [], []
    with bench.project() as project:
        project.configure(memory=options.daemon_memory)
        with daemon(project) as running:
            running.load("ingest", "--file", landed_file, "--format", "arrow")
        project.configure(memory=options.daemon_memory, wal_bytes="8GB", land_every="1h", land_facts=total, land_bytes="8GB")
        running = Daemon(project)
        try:
            running.load("ingest", "--file", unlanded_file, "--format", "arrow", "--no-wait")
            if running.metric("anabranch_unlanded_facts") != unlanded:
                raise Failure(f"{running.metric('anabranch_unlanded_facts')} facts are unlanded, not {unlanded}")
            for _ in bench.runs():
                running.kill()
                begun = time.perf_counter()
                running = Daemon(project)
                ready.append(time.perf_counter() - begun)
                counted = running.counted()
                seconds.append(time.perf_counter() - begun)
                resident.append(running.resident_bytes() / 1e6)
                if counted != total:
                    raise Failure(f"after the restart the view counts {counted} facts of {total}")
        finally:
            running.kill()
    note = f"{total:,} facts unabsorbed, {unlanded:,} of them unlanded"
    return [
        Row("recovery", "start → exact answer", "s", seconds, note=note),
        Row("recovery", "start → ready", "s", ready),
        Row("recovery", "resident memory", "MB", resident),
    ]


# ---- landing ---------------------------------------------------------------


def landing(bench):
    """What a commit costs besides its Parquet file, as the log grows."""
    rows, landings = [], 0
    per_landing, most = 50, bench.options.log_files
    file = bench.facts(per_landing * most)
    with bench.project() as project:
        for size in sorted({10, max(10, most // 20), most}):
            say(f"  a log of {size:,} files")
            if size > landings:
                project.configure()
                project.small_landings(file, size - landings, per_landing, skip=landings * per_landing)
                landings = size
                project.build("refresh")
            project.configure(land_every="100ms")
            with daemon(project, log_filter="info,anabranch_shared=debug") as running:
                running.load("open", "--file", file, "--rate", 5_000, "--seconds", LANDING_SECONDS)
                running.await_landed()
                said = running.said()
            commits = commit_times(said)
            if len(commits) < 20:
                raise Failure(f"the daemon told of {len(commits)} commits; at least 20 were to be timed")
            note = f"p99 {percentile(commits, 0.99):.3g} ms, {len(commits)} commits; file written in {statistics.median(file_times(said)):.3g} ms"
            rows.append(Row("landing", f"commit with {landings:,} files in the log", "ms", commits, note=note))
            landings += len(commits)
    return rows


def commit_times(said):
    """Milliseconds of each commit of a landing, from the daemon's debug log."""
    return [int(us) / 1e3 for us in re.findall(r"landed .*commit_us=(\d+)", said)]


def file_times(said):
    """Milliseconds of each landing's Parquet file, from the daemon's debug log."""
    return [int(us) / 1e3 for us in re.findall(r"landed .*file_us=(\d+)", said)]
