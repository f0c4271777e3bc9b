"""The processes of a soak: the daemon, what produces, the broker, and the jobs beside them."""

import contextlib
import json
import os
import random
import resource
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

from project import resident_of, run
from runs import Failure

TOPIC = "facts"
VIEW = "minutes"
TOTALS = "totals"

VIEW_SQL = """\
SELECT date_trunc('minute', ts) AS minute, url, count(*) AS facts, sum(id) AS ids, sum(engaged_ms) AS engaged_ms,
       avg(engaged_ms) AS engaged_mean_ms, approx_distinct(visitor) AS visitors, max(ts) AS last_at
FROM facts GROUP BY 1, 2
"""

# Asked every moment, so it must cost little however long the soak is.
TOTALS_SQL = "SELECT count(*) AS facts, sum(id) AS ids, max(ts) AS last_at FROM facts\n"

SETTINGS = """\
[storage]
url = "{storage}"
{of_storage}
grace = "{grace}"
[query]
# Below the grace: files must not be removed under a query.
timeout = "10s"
{query}
[daemon]
http = "127.0.0.1:{port}"
land_every = "{land_every}"
memory = "1GB"
[topics.facts]
event_time = "ts"
[topics.facts.fields]
ts         = "timestamp not null"
id         = "bigint not null"
url        = "varchar not null"
visitor    = "varchar"
section    = "varchar"
engaged_ms = "bigint"
{source}
[views.minutes]
sql = "minutes.sql"
[views.totals]
sql = "totals.sql"
"""

KAFKA_SOURCE = """\
[topics.facts.source.kafka]
brokers = "{bootstrap}"
topic = "facts"
start = "earliest"
[topics.facts.source.kafka.properties]
# So that the group soon gives a killed daemon's partitions to its next life.
"session.timeout.ms" = 3000
"heartbeat.interval.ms" = 500
"""

PATIENCE_SECONDS = 300

# The program's exit codes for "another process was faster; run the command again", and for damaged data.
CONFLICT = 75
CORRUPT = 65


def free_port():
    """A port below those of outgoing connections, so that none of them takes it while the daemon is away."""
    for _ in range(1000):
        port = random.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise Failure("no free port between 10000 and 32000")


class Daemon:
    """The daemon of a project, over its lives."""

    def __init__(self, tools, folder, port, descriptors=None):
        self.tools, self.folder, self.descriptors = tools, folder, descriptors
        self.url = f"http://127.0.0.1:{port}"
        self.process = None
        self.log = os.path.join(folder, "daemon.log")

    def start(self):
        with open(self.log, "a", encoding="utf-8") as stream:
            self.process = subprocess.Popen(
                [self.tools.anabranch, "--project", self.folder, "speed"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stream,
                env={**os.environ, "ANABRANCH_LOG": "warn"}, preexec_fn=self._bound if self.descriptors else None,
            )  # fmt: skip

    def _bound(self):
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.descriptors, self.descriptors))

    def open_descriptors(self):
        with contextlib.suppress(OSError):
            return len(os.listdir(f"/proc/{self.process.pid}/fd"))
        return None

    def said(self):
        with open(self.log, encoding="utf-8", errors="replace") as stream:
            return stream.read()[-3000:]

    def check_alive(self):
        """A daemon that ends by itself is a failure of the soak."""
        if self.process.poll() is not None:
            raise Failure(f"the daemon ended by itself with {self.process.returncode}: {self.said()}")

    def sql(self, statement, timeout=60):
        """The answer's rows; None while it does not answer."""
        request = urllib.request.Request(f"{self.url}/sql", data=statement.encode(), headers={"accept": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            said = error.read().decode()
            # A daemon that still recovers says so.
            if error.code in (429, 503):
                return None
            raise Failure(f"the daemon refused `{statement}`: {error.code} {said}") from error
        except (OSError, ValueError):
            return None

    def await_answer(self):
        begun = time.monotonic()
        while time.monotonic() - begun < PATIENCE_SECONDS:
            self.check_alive()
            if self.sql(f"SELECT facts FROM {TOTALS}") is not None:
                return
            time.sleep(0.05)
        raise Failure(f"the daemon does not answer after {PATIENCE_SECONDS} s: {self.said()}")

    def memory_bytes(self):
        with contextlib.suppress(OSError, Failure), open(f"/proc/{self.process.pid}/status", encoding="utf-8") as stream:
            return resident_of(stream.read())
        return None

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=PATIENCE_SECONDS)
        if code != 0:
            raise Failure(f"the daemon ended with {code}: {self.said()}")


class Spoken:
    """A mode of `load` that is told what to do on its standard input and answers in lines of JSON."""

    def __init__(self, tools, *arguments):
        self.process = subprocess.Popen(
            [tools.load, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.name = arguments[0]

    def say(self, word):
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def hear(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failure(f"`load {self.name}` ended with {self.process.wait()}")
        return json.loads(line)

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Broker(Spoken):
    """A Kafka broker."""

    def __init__(self, tools, folder, partitions):
        if not os.environ.get("ANABRANCH_KAFKA"):
            raise Failure("`ANABRANCH_KAFKA` names no Apache Kafka; set it to what `tests/kafka/setup.sh` prints, or use `--source http`")
        super().__init__(tools, "broker", "--dir", folder, "--topic", TOPIC, "--partitions", partitions)
        self.bootstrap = self.hear()["bootstrap"]

    def restart(self, how):
        for word in (how, "start"):
            self.say(word)
            self.hear()


class Bucket:
    """The tests' S3 server."""

    KEYS = {"AWS_ACCESS_KEY_ID": "anabranch", "AWS_SECRET_ACCESS_KEY": "anabranch-secret"}
    URL = "s3://tests/soak"

    def __init__(self, program, folder):
        if not os.access(program, os.X_OK):
            raise Failure(f"`{program}` is not built; run `cargo build --release --workspace`, or give `--s3d`")
        self.process = subprocess.Popen([program, folder], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline().split()
        if not line:
            raise Failure(f"`{program}` ended with {self.process.wait()}")
        self.settings = f'endpoint = "{line[0]}"'
        self.files = os.path.join(folder, "tests", "soak")
        # For the daemon and all commands.
        os.environ.update(self.KEYS)

    def end(self):
        self.process.kill()
        self.process.wait()


class Producer(Spoken):
    """The steady stream; the newest of its reports is at hand."""

    def __init__(self, tools, to, at, rate):
        super().__init__(tools, "steady", "--to", to, "--at", at, "--topic", TOPIC, "--rate", rate)
        self.to = to
        self.latest = {"sent": 0, "acknowledged": 0, "trouble": None}
        self.lost = None
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self):
        try:
            while "all" not in self.latest:
                self.latest = self.hear()
        except (Failure, ValueError) as failure:
            self.lost = failure

    def check_alive(self):
        if self.lost is not None:
            raise Failure(f"the producer ended: {self.lost}")

    def stop(self):
        """Its book."""
        self.say("stop")
        self._reading.join(timeout=PATIENCE_SECONDS)
        self.check_alive()
        if "all" not in self.latest:
            raise Failure(f"the producer gives no last report; its trouble: {self.latest['trouble']}")
        self.end()
        return self.latest


class Jobs:
    """`batch` commands beside the daemon, one of a kind at a time."""

    def __init__(self, tools, folder):
        self.tools, self.folder = tools, folder
        self.running, self.began = {}, {}
        self.done, self.conflicts, self.killed, self.failures = {}, 0, 0, []
        # Where files are damaged meanwhile: whether some were in a time.
        self.was_damaged, self.damaged = lambda began, ended: False, 0

    def start(self, kind, *arguments):
        """Begins a job unless its last one still runs; whether it did."""
        self.reap()
        if kind in self.running:
            return False
        self.began[kind] = time.monotonic()
        with open(os.path.join(self.folder, f"{kind}.log"), "w", encoding="utf-8") as stream:
            self.running[kind] = subprocess.Popen(
                [self.tools.anabranch, "--project", self.folder, "batch", kind, *arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stream,
            )  # fmt: skip
        return True

    def reap(self):
        for kind, process in list(self.running.items()):
            code = process.poll()
            if code is None:
                continue
            del self.running[kind]
            if code == 0:
                self.done[kind] = self.done.get(kind, 0) + 1
            elif code == CONFLICT:
                self.conflicts += 1
            elif code == CORRUPT and self.was_damaged(self.began[kind], time.monotonic()):
                self.damaged += 1
            else:
                with open(os.path.join(self.folder, f"{kind}.log"), encoding="utf-8") as stream:
                    self.failures.append(f"{kind} ended with {code}: {stream.read()[-800:]}")

    def kill_one(self, chosen):
        """`kill -9` of one that runs; which."""
        self.reap()
        if not self.running:
            return None
        kind = chosen.choice(sorted(self.running))
        process = self.running.pop(kind)
        process.kill()
        process.wait()
        self.killed += 1
        return kind

    def await_all(self):
        for process in self.running.values():
            process.wait(timeout=PATIENCE_SECONDS)
        self.reap()

    def kill_all(self):
        while self.kill_one(random):
            pass


def command(tools, folder, *arguments):
    """A command of the program to its end; what it printed as JSON."""
    return json.loads(run([tools.anabranch, "--project", folder, "--format", "json", *arguments]))
