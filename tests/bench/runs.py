"""What every benchmark run needs: facts found, page cache warm, a process of its own, statistics.

Owns nothing of the engines; `clickhouse.py` and `duck.py` do.
"""

import contextlib
import math
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
import urllib.parse


class Failure(Exception):
    """Something the user can mend; its text is the whole message. Exit code 2."""


def say(text):
    """Progress, to stderr: stdout holds the one line of JSON."""
    print(text, file=sys.stderr, flush=True)


def need(package):
    """Imports a peer's package, or says how to get it."""
    try:
        return __import__(package)
    except ImportError as error:
        raise Failure(
            f"python package `{package}` can't be imported ({error}); "
            "run `tests/bench/setup.sh` and use the python whose path it prints"
        ) from error


def quoted(text):
    """A string literal of both engines' SQL; only ClickHouse reads backslashes in one."""
    if "\\" in text:
        raise Failure(f"`{text}` holds a backslash, which the engines quote differently; rename it")
    return "'" + text.replace("'", "''") + "'"


# ---- the facts -------------------------------------------------------------


def fact_files(place):
    """The Parquet files that hold the facts of `place`, oldest first.

    A folder with a Delta log is read through that log: files which a crash left
    behind or upkeep has replaced lie in the folder too, and a glob would count
    their facts twice. Any other folder gives its `part-*.parquet`; a file, itself.
    """
    if os.path.isfile(place):
        return [os.path.abspath(place)]
    if not os.path.isdir(place):
        raise Failure(f"`{place}` is neither a folder nor a file; `--facts` wants the folder of `part-*.parquet`")
    place = os.path.abspath(place)
    if os.path.isdir(os.path.join(place, "_delta_log")):
        try:
            table = need("deltalake").DeltaTable(place)
            paths = table.get_add_actions(flatten=True).column("path").to_pylist()
        except need("deltalake").exceptions.DeltaError as error:
            raise Failure(f"deltalake can't read the log of `{place}`: {error}") from error
        files = [os.path.join(place, urllib.parse.unquote(path)) for path in paths]
        missing = [file for file in files if not os.path.isfile(file)]
        if missing:
            raise Failure(f"`{missing[0]}` is in the Delta log of `{place}` but not on disk")
    else:
        names = os.listdir(place)
        files = [os.path.join(place, n) for n in names if n.startswith("part-") and n.endswith(".parquet")]
    if not files:
        raise Failure(f"`{place}` holds no facts: no `part-*.parquet` and no Delta log that names any")
    return sorted(files, key=lambda file: (os.stat(file).st_mtime_ns, file))


@contextlib.contextmanager
def one_glob(files):
    """A pattern that matches exactly `files`: links to them in a temporary folder.

    Engines take a pattern well and a list of 17,000 names badly, and characters
    that mean something in a pattern may occur in the folder's own path.
    """
    with tempfile.TemporaryDirectory(prefix="anabranch-facts-") as folder:
        for number, file in enumerate(files):
            os.symlink(file, os.path.join(folder, f"part-{number:06}.parquet"))
        yield os.path.join(folder, "part-*.parquet")


def count_rows(files):
    """Facts in the files, from their footers."""
    pyarrow = need("pyarrow")
    import pyarrow.parquet

    rows = 0
    for file in files:
        try:
            rows += pyarrow.parquet.read_metadata(file).num_rows
        except (pyarrow.ArrowException, OSError) as error:
            raise Failure(f"`{file}` is not readable Parquet: {error}") from error
    return rows


def warm(files):
    """Reads every file once, so that the first run finds the page cache as the others do. Returns bytes."""
    size = 0
    for file in files:
        with open(file, "rb", buffering=0) as stream:
            while chunk := stream.read(4 << 20):
                size += len(chunk)
    return size


# ---- a process of its own --------------------------------------------------


def in_child(function, *arguments):
    """Calls `function(*arguments)` in a fresh process and returns its dict with `peak_memory_bytes` added.

    ClickHouse keeps caches (footers, filter results, schemas) for the whole
    process, across sessions: a new process is the only run without them.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(theirs, function, arguments), daemon=True)
    child.start()
    theirs.close()
    try:
        outcome, value = ours.recv()
    except EOFError:
        child.join()
        raise Failure(f"the run's process ended with {child.exitcode} and no result (negative: killed by a signal)") from None
    child.join()
    if outcome == "failed":
        raise Failure(value)
    return value


def _child(pipe, function, arguments):
    # Whatever an engine prints must not get into the line of JSON.
    os.dup2(2, 1)
    try:
        value = function(*arguments)
        value["peak_memory_bytes"] = _peak_memory_bytes()
        pipe.send(("ok", value))
    except Exception as error:
        pipe.send(("failed", str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"))


def _peak_memory_bytes():
    # Not `ru_maxrss`: across an exec that starts from the parent's peak.
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


class Stopwatch:
    """Wall and processor seconds of a `with` block; processor time counts all threads of the process."""

    def __enter__(self):
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_):
        self.seconds = time.perf_counter() - self._wall
        self.cpu_seconds = time.process_time() - self._cpu


def settle(path):
    """Flushes a file and its folder to disk and returns the seconds.

    Neither engine does so after an export. Done outside the run's time, it
    shows what durability would have cost and keeps one run's writeback out of
    the next one's time.
    """
    with Stopwatch() as watch:
        for name in (path, os.path.dirname(path)):
            handle = os.open(name, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
    return watch.seconds


# ---- figures ---------------------------------------------------------------


def percentile(samples, share):
    """The nearest-rank percentile: a value that was measured, never one between two."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def figures(samples, p99=False):
    """Median and all samples; with `p99`, that too (the slowest one, below 100 samples)."""
    out = {"median": _short(statistics.median(samples))}
    if p99:
        out["p99"] = _short(percentile(samples, 0.99))
    out["samples"] = [_short(sample) for sample in samples]
    return out


def _short(number):
    number = round(number, 6)
    return int(number) if number == int(number) else number


def machine():
    """What else weighed on the figures: processors and the load before the run."""
    return {"cpus": len(os.sched_getaffinity(0)), "load_1m": round(os.getloadavg()[0], 2)}


@contextlib.contextmanager
def scratch(parent):
    """A folder for an engine's own files, on the disk of `parent`, removed at the end."""
    if parent is not None and not os.path.isdir(parent):
        raise Failure(f"`{parent}` is not a folder; `--work` wants one on the disk to measure")
    folder = tempfile.mkdtemp(prefix="anabranch-peer-", dir=parent)
    try:
        yield folder
    finally:
        # The engine's background threads may be removing files of their own.
        shutil.rmtree(folder, ignore_errors=True)
