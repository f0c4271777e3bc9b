"""A throwaway Anabranch project on disk, and the processes that work on it.

Owns the project that every figure is measured on (its topic, its view), the
commands of the `anabranch` and `load` binaries, and the daemon's process.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request

from runs import Failure

TOPIC = "pageviews"
VIEW = "post_minutes"

# The workload of the figures: one row for each minute and url.
VIEW_SQL = """\
SELECT date_trunc('minute', ts) AS minute, url, count(*) AS page_views,
       sum(engaged_ms) AS engaged_ms, avg(engaged_ms) AS engaged_mean_ms,
       approx_distinct(visitor) AS visitors, max(ts) AS last_at
FROM pageviews GROUP BY 1, 2
"""

SETTINGS = """\
[daemon]
http = "127.0.0.1:0"
{daemon}
[batch]
memory = "{batch_memory}"
[topics.pageviews]
event_time = "ts"
[topics.pageviews.fields]
ts         = "timestamp not null"
url        = "varchar not null"
author     = "varchar"
section    = "varchar"
referrer   = "varchar"
visitor    = "varchar"
action     = "varchar"
engaged_ms = "bigint"
[views.post_minutes]
sql = "post_minutes.sql"
"""

PATIENCE_SECONDS = 300


class Tools:
    """Where the binaries are."""

    def __init__(self, anabranch, load):
        for path in (anabranch, load):
            if not os.access(path, os.X_OK):
                raise Failure(
                    f"`{path}` is not a program; build it with `cargo build --release --workspace`, "
                    "or name it with `--anabranch` and `--load`"
                )
        self.anabranch = os.path.abspath(anabranch)
        self.load = os.path.abspath(load)


def run(arguments, **options):
    """Runs a command to its end; its standard output. A failure says what the command said."""
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip()
        raise Failure(f"`{' '.join(arguments)}` ended with {done.returncode}: {said[-2000:]}")
    return done.stdout


def generate(tools, file, facts, seed, end, span="48h"):
    """Makes a file of facts, unless an earlier figure made it: the same options, the same facts."""
    if not os.path.exists(file):
        made = f"{file}.new"
        run([
            tools.anabranch, "generate", TOPIC, "--facts", str(facts), "--seed", str(seed),
            "--end", end, "--span", span, "--output", made,
        ])  # fmt: skip
        os.rename(made, file)
        # Half a minute later the system would write it, in the middle of what is measured.
        os.sync()
    return file


class Project:
    """A project's folder. Settings are written anew by `configure`; the daemon reads them when it starts."""

    def __init__(self, tools, folder):
        self.tools = tools
        self.folder = folder
        os.makedirs(folder)
        with open(os.path.join(folder, "post_minutes.sql"), "w", encoding="utf-8") as stream:
            stream.write(VIEW_SQL)
        self.configure()

    def configure(self, batch_memory="1GB", **daemon):
        """Settings of `[daemon]` by name; numbers and texts."""
        lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in daemon.items())
        with open(os.path.join(self.folder, "anabranch.toml"), "w", encoding="utf-8") as stream:
            stream.write(SETTINGS.format(daemon=lines, batch_memory=batch_memory))

    @property
    def log(self):
        """The folder of the topic's log."""
        return os.path.join(self.folder, "data", "topics", TOPIC, "log")

    def command(self, *arguments):
        """A command of `anabranch` on this project; what it printed as JSON."""
        text = run([self.tools.anabranch, "--project", self.folder, "--format", "json", *arguments])
        return json.loads(text)

    def ingest(self, *files):
        """Lands files without a daemon; wall seconds."""
        begun = time.perf_counter()
        self.command("ingest", TOPIC, *files)
        return time.perf_counter() - begun

    def build(self, how):
        """`rebuild` or `refresh`; its report, of which `seconds` is the job's own time."""
        return self.command("batch", how, VIEW)[0]

    def last_job(self):
        """The newest line of the history of jobs."""
        return self.command("jobs", "history")[0]

    def small_landings(self, file, landings, facts_per_landing, skip=0):
        """Lands the file's facts in many small landings, as a daemon would in a day."""
        return json.loads(run([
            self.tools.load, "land", "--project", self.folder, "--topic", TOPIC, "--file", file,
            "--landings", str(landings), "--facts-per-landing", str(facts_per_landing),
            "--skip", str(skip), "--output", "json",
        ]))  # fmt: skip

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)


class Daemon:
    """The daemon of a project, from its start to its end."""

    def __init__(self, project, log_filter="info"):
        self.project = project
        self.errors = os.path.join(project.folder, "daemon.log")
        self._forget_addresses()
        with open(self.errors, "w") as stream:
            self.process = subprocess.Popen(
                [project.tools.anabranch, "--project", project.folder, "speed"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stream,
                env={**os.environ, "ANABRANCH_LOG": log_filter},
            )  # fmt: skip
        self.url = self._await_address()

    def _addresses(self):
        folder = os.path.join(self.project.folder, "data", "daemons")
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(folder):
                if name.endswith(".json"):
                    yield os.path.join(folder, name)

    def _forget_addresses(self):
        # One that was killed leaves its address behind.
        for path in list(self._addresses()):
            os.remove(path)

    def _await_address(self):
        begun = time.perf_counter()
        while time.perf_counter() - begun < PATIENCE_SECONDS:
            for path in self._addresses():
                with contextlib.suppress(OSError, ValueError):
                    with open(path, encoding="utf-8") as stream:
                        url = f"http://{json.load(stream)['http']}"
                    with urllib.request.urlopen(f"{url}/health", timeout=5):
                        return url
            if self.process.poll() is not None:
                raise Failure(f"the daemon ended with {self.process.returncode}: {self.said()[-2000:]}")
            time.sleep(0.005)
        self.kill()
        raise Failure(f"the daemon does not answer after {PATIENCE_SECONDS} s: {self.said()[-2000:]}")

    def said(self):
        """What it wrote to standard error so far."""
        with open(self.errors, encoding="utf-8") as stream:
            return stream.read()

    def sql(self, statement, read="merged"):
        """The answer's rows, as dicts."""
        request = urllib.request.Request(
            f"{self.url}/sql?read={read}", data=statement.encode(), headers={"accept": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Failure(f"the daemon refused `{statement}`: {error.read().decode()}") from error

    def counted(self):
        """Facts that the view counts."""
        return self.sql(f"SELECT sum(page_views) AS facts FROM {VIEW}")[0]["facts"] or 0

    def metric(self, name):
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=PATIENCE_SECONDS) as answer:
            return metric_of(answer.read().decode(), name)

    def await_landed(self):
        begun = time.perf_counter()
        while self.metric("anabranch_unlanded_facts"):
            if time.perf_counter() - begun > PATIENCE_SECONDS:
                raise Failure(f"facts have not landed after {PATIENCE_SECONDS} s: {self.said()[-2000:]}")
            time.sleep(0.02)

    def resident_bytes(self):
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as stream:
            return resident_of(stream.read())

    def load_command(self, mode, *arguments):
        return [self.project.tools.load, mode, "--url", self.url, "--output", "json", *map(str, arguments)]

    def load(self, mode, *arguments):
        """Runs the load generator against this daemon; its report."""
        try:
            return json.loads(run(self.load_command(mode, *arguments)))
        except Failure as failure:
            raise Failure(f"{failure}; the daemon said: {self.said()[-2000:]}") from failure

    def load_beside(self, mode, *arguments):
        """Starts the load generator; the process, whose standard output is its report."""
        return subprocess.Popen(self.load_command(mode, *arguments), stdout=subprocess.PIPE, text=True)

    def stop(self):
        """Ends it as a user would; everything has landed then."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure(f"the daemon did not stop within {PATIENCE_SECONDS} s") from None
        if code != 0:
            raise Failure(f"the daemon ended with {code}: {self.said()[-2000:]}")

    def kill(self):
        """`kill -9`."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def daemon(project, log_filter="info"):
    """A daemon for the length of a block; killed where the block fails."""
    running = Daemon(project, log_filter)
    try:
        yield running
    except BaseException:
        running.kill()
        raise
    if running.process.poll() is None:
        running.stop()


def metric_of(text, name):
    """The sum of a metric of Prometheus' text format over its labels."""
    values = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    if not values:
        raise Failure(f"the daemon has no metric `{name}`")
    return sum(float(value) for value in values)


def resident_of(status):
    """`VmRSS` of `/proc/PID/status` in bytes."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    if not found:
        raise Failure("the daemon has ended; its memory can't be read")
    return int(found.group(1)) * 1024
