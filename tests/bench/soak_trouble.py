"""What a soak does to its daemon besides kills: clients that look whether answers are consistent, requests that try to
take it, and damage to its files while it runs.

Each counts what it saw; what must not be is in `wrong`. A daemon that is away answers nobody, and that is no trouble.
"""

import gzip
import http.client
import io
import json
import os
import random
import socket
import threading
import time

from soak_parts import TOPIC, TOTALS, VIEW

# Both views under one pin, which must say the same.
BOTH = f"SELECT t.facts AS facts, t.ids AS ids, m.facts AS by_minute, m.ids AS ids_by_minute FROM {TOTALS} t CROSS JOIN (SELECT sum(facts) AS facts, sum(ids) AS ids FROM {VIEW}) m"
ONE = f"SELECT facts, ids FROM {TOTALS}"

# What a daemon says that is full, starts or stops.
AWAY = (429, 503)

# A view and the log under one pin.
LOG = f"SELECT t.facts AS facts, t.ids AS ids, f.facts AS by_minute, f.ids AS ids_by_minute FROM {TOTALS} t CROSS JOIN (SELECT count(*) AS facts, sum(id) AS ids FROM {TOPIC}) f"


def agree(row):
    """Whether the two views of an answer say the same."""
    number = lambda name: int(row[name] or 0)  # noqa: E731
    return (number("facts"), number("ids")) == (number("by_minute"), number("ids_by_minute"))


def ask(daemon, statement, timeout=60):
    """Status and text; None where nobody answers."""
    return send(daemon, "POST", "/sql", statement.encode(), {"accept": "application/json"}, timeout)


def send(daemon, method, path, body, headers=None, timeout=60):
    address = daemon.url.removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


class Trouble:
    """Threads that go on until they are told to stop."""

    def __init__(self, daemon, seed):
        self.daemon, self.seed = daemon, seed
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.counts, self.wrong = {}, []
        self.threads = []

    def start(self, work, number):
        self.threads += [threading.Thread(target=self._guarded, args=(work, nth), daemon=True) for nth in range(number)]
        for thread in self.threads:
            thread.start()

    def _guarded(self, work, nth):
        try:
            work(nth)
        except Exception as error:  # noqa: BLE001, a thread that ends would look like one that has nothing to say
            self.note("ended", f"{type(error).__name__}: {error}")

    def note(self, what, wrong=None):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1
            if wrong is not None and len(self.wrong) < 20:
                self.wrong.append(f"{type(self).__name__.lower()}: {wrong}")

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(timeout=90)


class Clients(Trouble):
    """Readers that check each answer against the one before, against what was acknowledged before they asked, and one
    view against the other."""

    def __init__(self, daemon, producer, number, pause, seed):
        super().__init__(daemon, seed)
        self.producer, self.pause = producer, pause
        # Whether a file was damaged in a time: an error that says so is right then.
        self.was_damaged = lambda began, ended: False
        # What Kafka has acknowledged is not read yet, and what was read but not landed is read again after a kill.
        self.acknowledges = producer.name == "steady" and producer.to == "http"
        self.start(self._read, number)

    def _read(self, nth):
        chosen = random.Random(f"{self.seed} {nth}")
        least = 0
        while not self.stopping.wait(self.pause * (0.5 + chosen.random())):
            both = nth % 8 == 0
            acknowledged = self.producer.latest["acknowledged"]
            began = time.monotonic()
            answer = ask(self.daemon, BOTH if both else ONE)
            damaged = self.was_damaged(began, time.monotonic())
            least = self.judge(answer, both, max(least, acknowledged), damaged)

    def judge(self, answer, both, least, damaged):
        """Looks at an answer; how many facts the next one has at least."""
        if answer is None or answer[0] in AWAY:
            self.note("away")
            return least
        status, text = answer
        if status != 200:
            self.note("errors", None if damaged else f"{status} {text[:500]}")
            return least
        row = json.loads(text)[0]
        facts = int(row["facts"] or 0)
        if self.acknowledges and facts < least:
            self.note("answers", f"{facts} facts, after {least} were acknowledged or answered")
            return least
        if both and not agree(row):
            self.note("answers", f"the views differ: {row}")
        else:
            self.note("answers")
        return max(least, facts)


def _deep():
    return f"SELECT {'(' * 100_000}1{')' * 100_000}".encode()


def _arrow():
    """A few bytes that stand for gigabytes: a long text, once, in each of a million rows."""
    import pyarrow

    text = pyarrow.array(["x" * 10_000])
    rows = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1_000_000, pyarrow.int8()), text)
    out = io.BytesIO()
    options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
    batch = pyarrow.record_batch([rows], names=["url"])
    with pyarrow.ipc.new_stream(out, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return out.getvalue()


JOIN = b"SELECT count(*) FROM generate_series(1, 200000) a JOIN generate_series(1, 200000) b ON a.value < b.value AND a.value * 7 + b.value < 0"


class Bombs(Trouble):
    """Requests of which each once took a daemon: large, deep, expanding, endless, and many."""

    def __init__(self, daemon, seed):
        super().__init__(daemon, seed)
        write = f"/topics/{TOPIC}"
        # Blank lines: nothing of it is a fact, however far it is read.
        inflating = gzip.compress(b"\n" * 400_000_000, 9)
        ndjson = {"content-type": "application/x-ndjson"}
        self.requests = {
            "a deep statement": ("/sql", _deep(), {}),
            "a long statement": ("/sql", b"SELECT 1" + b" + 1" * 100_000, {}),
            "a function that grows": ("/sql", b"SELECT length(repeat('x', 10000000000))", {}),
            "a body that inflates": (write, inflating, ndjson | {"content-encoding": "gzip"}),
            "an Arrow body that expands": (write, _arrow(), {"content-type": "application/vnd.apache.arrow.stream"}),
        }
        self.start(self._throw, 1)

    def _throw(self, _):
        chosen = random.Random(self.seed)
        all_of_them = [*self.requests, "a length that is not true", "an endless query", "many connections"]
        while not self.stopping.is_set():
            chosen.shuffle(all_of_them)
            for what in all_of_them:
                if self.stopping.wait(0.5 + chosen.random()):
                    return
                match what:
                    case "a length that is not true":
                        self._state_much(what)
                    case "an endless query":
                        # Nobody waits for it any more after a second.
                        self.judge(what, send(self.daemon, "POST", "/sql", JOIN, timeout=1), AWAY)
                    case "many connections":
                        self._connect(what)
                    case _:
                        path, body, headers = self.requests[what]
                        self.judge(what, send(self.daemon, "POST", path, body, headers), (400, 413, *AWAY))

    def judge(self, what, answer, right):
        wrong = answer is not None and answer[0] not in right
        self.note(what, f"{what}: {answer[0]} {answer[1][:300]}" if wrong else None)

    def _open(self):
        host, port = self.daemon.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=5)

    def _state_much(self, what):
        try:
            with self._open() as stream:
                stream.sendall(f"POST /topics/{TOPIC} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9000000000000\r\n\r\n".encode())
                head = stream.recv(64).decode(errors="replace")
        except OSError:
            head = ""
        right = head == "" or any(head.startswith(f"HTTP/1.1 {code}") for code in (413, 503))
        self.note(what, None if right else f"{what}: {head}")

    def _connect(self, what):
        held = []
        try:
            for _ in range(400):
                held.append(self._open())
        except OSError:
            # It is away, or closes those beyond its bounds.
            pass
        self.stopping.wait(2)
        for stream in held:
            stream.close()
        self.note(what)


class Damage:
    """Flips a byte of a data file, asks, and puts the byte back: an answer is right, or an error that says what is
    damaged."""

    def __init__(self, daemon, files, chosen):
        self.daemon, self.files, self.chosen = daemon, files, chosen
        self.counts, self.wrong = {}, []
        # When it began and ended, on the monotonic clock.
        self.windows = []

    def note(self, what, wrong=None):
        self.counts[what] = self.counts.get(what, 0) + 1
        if wrong is not None:
            self.wrong.append(f"damage: {wrong}")

    def candidates(self):
        found = []
        for folder, _, names in os.walk(self.files):
            found += [os.path.join(folder, name) for name in names if name.endswith(".parquet") and "_delta_log" not in folder]
        # A view has few files, and the log has many.
        of = self.chosen.choice([f"topics{os.sep}", f"views{os.sep}"])
        return sorted(path for path in found if f"{os.sep}{of}" in path)

    def strike(self, least):
        """Damages one file for a moment; `least` facts are answered at least."""
        files = self.candidates()
        if not files:
            return
        path = self.chosen.choice(files)
        began = time.monotonic()
        # It is known before the first answer can tell it.
        self.windows.append((began, float("inf")))
        place = self._flip(path, None)
        if place is None:
            self.windows.pop()
            return
        try:
            # The flipped byte may be of a column that one of them reads.
            for statement in (BOTH, LOG):
                self.judge(path, ask(self.daemon, statement), least)
        finally:
            self._flip(path, place)
            self.windows[-1] = (began, time.monotonic())

    def _flip(self, path, place):
        """Flips a byte; where. None where the file has gone meanwhile, as those do that were replaced."""
        try:
            with open(path, "r+b") as stream:
                stream.seek(0, os.SEEK_END)
                if stream.tell() == 0:
                    return None
                place = self.chosen.randrange(stream.tell()) if place is None else place
                stream.seek(place)
                byte = stream.read(1)[0]
                stream.seek(place)
                stream.write(bytes([byte ^ 0x55]))
                return place
        except FileNotFoundError:
            return None

    def judge(self, path, answer, least):
        if answer is None or answer[0] in AWAY:
            return self.note("away")
        status, text = answer
        if status != 200:
            said = json.loads(text)
            right = said.get("kind") == "corrupt"
            return self.note("errors", None if right else f"{path}: {status} {text[:500]}")
        row = json.loads(text)[0]
        right = agree(row) and int(row["facts"] or 0) >= least
        return self.note("answers", None if right else f"{path}: {row}, at least {least} facts")

    def overlaps(self, began, ended):
        """Whether something was damaged in a time."""
        return any(start <= ended and began <= end for start, end in self.windows)
