"""What is measured of a changed view: queries and acknowledgements beside its build, the comparison of both
generations, and the cut-over and roll-back as a client sees them that asks all the time."""

import json
import os
import subprocess
import threading
import time

from measures_live import TOP10
from project import PATIENCE_SECONDS, VIEW, VIEW_SQL, daemon
from runs import Failure, percentile, say
from table import Row

# A view of one row, whose value tells which generation answers.
TOTALS = "SELECT count(*) AS n FROM pageviews"
EDITED_TOTALS = "SELECT count(*) * 2 AS n FROM pageviews"
EDITED_VIEW = VIEW_SQL.replace("FROM pageviews", "FROM pageviews WHERE action <> 'share'")

# How often the client asks that watches a cut-over, in seconds.
ASKS_EVERY = 0.01

# Facts of a request while latencies are measured.
REQUEST_FACTS = 100


def changes(bench):
    options = bench.options
    file, more = bench.facts(options.change_facts), bench.facts(options.change_rate * options.change_seconds, seed=3)
    idle, beside, built, compared, watched = [], [], [], [], []
    for _ in bench.runs():
        with bench.project() as project:
            _with_totals(project, options)
            project.ingest(file)
            project.command("batch", "rebuild")
            with daemon(project) as running:
                idle.append(_live(bench, running, more, None))
                _write(project, VIEW, EDITED_VIEW)
                _write(project, "totals", EDITED_TOTALS)
                apply = _started(project, "apply", "--yes", "--no-cut-over")
                beside.append(_live(bench, running, more, apply))
                built.append(sum(b["seconds"] for b in _ended(apply)["built"]))
                compared.append(_compared(project))
                watched.append(_watched(project, running))
    ratios = lambda key: [after[key] / before[key] for before, after in zip(idle, beside)]
    rows = compared[0]["rows"]
    note = f"{options.change_facts:,} facts, {rows:,} rows of the view; {options.change_rate:,} facts/s come in"
    return [
        Row("changes", "query p99, nothing built", "ms", [i["query"] for i in idle], note=note),
        Row("changes", "query p99 beside a build", "ms", [b["query"] for b in beside]),
        Row("changes", "query p99, beside over without", "", ratios("query")),
        Row("changes", "acknowledgement p99, nothing built", "ms", [i["ack"] for i in idle]),
        Row("changes", "acknowledgement p99 beside a build", "ms", [b["ack"] for b in beside]),
        Row("changes", "acknowledgement p99, beside over without", "", ratios("ack")),
        Row("changes", "build", "s", built, note="beside the daemon and its load, `[build]` as it is by default"),
        Row("changes", "diff", "s", [c["seconds"] for c in compared], note=f"{rows:,} rows a side"),
        Row("changes", "diff, peak memory", "MB", [c["peak_mb"] for c in compared]),
        Row("changes", "cut-over, longest without an answer", "ms", [w["cut_over"]["gap"] for w in watched], note="a client that asks 100 times a second"),
        Row("changes", "cut-over, `apply` to the new answer", "ms", [w["cut_over"]["after"] for w in watched]),
        Row("changes", "roll-back, longest without an answer", "ms", [w["roll_back"]["gap"] for w in watched]),
        Row("changes", "roll-back, command to the old answer", "ms", [w["roll_back"]["after"] for w in watched]),
    ]  # fmt: skip


def _write(project, view, sql):
    with open(os.path.join(project.folder, f"{view}.sql"), "w", encoding="utf-8") as stream:
        stream.write(sql)


def _with_totals(project, options):
    project.configure(memory=options.daemon_memory, batch_memory=options.batch_memory)
    _write(project, "totals", TOTALS)
    with open(os.path.join(project.folder, "anabranch.toml"), "a", encoding="utf-8") as stream:
        stream.write('[views.totals]\nsql = "totals.sql"\n')


def _started(project, *arguments):
    """A command of `anabranch` that goes on beside."""
    command = [project.tools.anabranch, "--project", project.folder, "--format", "json", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _ended(process, codes=(0,)):
    """What such a command printed in the end."""
    out, said = process.communicate(timeout=PATIENCE_SECONDS)
    if process.returncode not in codes:
        raise Failure(f"`{' '.join(process.args)}` ended with {process.returncode}: {said.strip()[-2000:]}")
    return json.loads(out)


def _live(bench, running, file, until):
    """p99 of queries and of acknowledgements, in milliseconds: as long as a process runs, or for some seconds."""
    options = bench.options
    say("  beside a build" if until else "  nothing built")
    acks = running.load_beside(
        "open", "--file", file, "--rate", options.change_rate, "--seconds", options.change_seconds,
        "--facts-per-request", REQUEST_FACTS,
    )  # fmt: skip
    took, ends = [], time.perf_counter() + options.change_seconds
    while time.perf_counter() < ends and (until is None or until.poll() is None):
        begun = time.perf_counter()
        running.sql(TOP10)
        took.append((time.perf_counter() - begun) * 1e3)
    report, _ = acks.communicate(timeout=PATIENCE_SECONDS)
    if len(took) < 20:
        raise Failure(f"only {len(took)} queries ended while it was built; raise `--change-facts`")
    return {"query": percentile(took, 0.99), "ack": json.loads(report)["latency_ms"]["p99"]}


def _compared(project):
    """The comparison of both generations."""
    begun = time.perf_counter()
    process = _started(project, "diff", VIEW)
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 1:
        raise Failure(f"`diff` ended with {process.returncode}: {process.stderr.read()[-2000:]}")
    rows = json.loads(text)["diff"]["rows_a"]
    return {"seconds": time.perf_counter() - begun, "rows": rows, "peak_mb": usage.ru_maxrss / 1e3}


class _Client:
    """Asks for the one number all the time, and notes when it had each answer."""

    def __init__(self, running):
        self.running = running
        self.answers = []
        self.failed = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._ask)
        self.thread.start()

    def _ask(self):
        due = time.perf_counter()
        while not self.stop.is_set():
            try:
                value = self.running.sql("SELECT n FROM totals")[0]["n"]
            except Failure as failure:
                self.failed = failure
                return
            self.answers.append((time.perf_counter(), value))
            due = max(due + ASKS_EVERY, time.perf_counter())
            time.sleep(max(0, due - time.perf_counter()))

    def end(self):
        self.stop.set()
        self.thread.join()
        if self.failed:
            raise self.failed

    def seen(self, begun, is_new):
        """The longest time without an answer from then on, and how long it took to the first new one."""
        at = [t for t, _ in self.answers if t >= begun]
        news = [t for t, value in self.answers if t >= begun and is_new(value)]
        old_again = [t for t, value in self.answers if news and t > news[0] and not is_new(value)]
        if not news or old_again:
            raise Failure("no new answer came" if not news else "an answer went back to the former generation")
        gaps = [later - sooner for sooner, later in zip([begun, *at], at)]
        return {"gap": max(gaps) * 1e3, "after": (news[0] - begun) * 1e3}


def _watched(project, running):
    """A cut-over and a roll-back as a client sees them."""
    facts = running.sql("SELECT n FROM totals")[0]["n"]
    seen = {}
    for name, command, is_new in (
        ("cut_over", ("apply", "--yes"), lambda value: value >= 2 * facts),
        ("roll_back", ("rollback", "totals"), lambda value: value < 2 * facts),
    ):
        client = _Client(running)
        time.sleep(0.5)
        begun = time.perf_counter()
        try:
            _ended(_started(project, *command))
            time.sleep(0.5)
        finally:
            client.end()
        seen[name] = client.seen(begun, is_new)
    return seen

