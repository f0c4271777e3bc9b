"""Asks a daemon with the package in jobs/python, installed from there; ends with 0 where all is right.

    python_client.py URL PACKAGE

The daemon has the tests' topic `facts` with the ids 0 to 999, and the view `words` over it.
"""

import datetime
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

URL, PACKAGE = sys.argv[1], sys.argv[2]

folder = pathlib.Path(tempfile.mkdtemp())
# Building writes beside the source.
shutil.copytree(PACKAGE, folder / "source")
install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
subprocess.run([*install, "--target", folder / "installed", folder / "source"], check=True)
sys.path.insert(0, str(folder / "installed"))

import pandas
import polars
import pyarrow

import anabranch
import anabranch.client


def check(what, found, expected):
    if found != expected:
        raise SystemExit(f"{what}: {found!r}, not {expected!r}")


def fails(what, kind, call):
    try:
        call()
    except anabranch.client.Error as e:
        check(what, e.kind, kind)
        return e
    raise SystemExit(f"{what} is no error")


daemon = anabranch.connect(URL)

check("rows", daemon.sql("SELECT count(*) AS n FROM facts WHERE id < 1000").rows(), [{"n": 1000}])
answer = daemon.sql("SELECT id, ts FROM facts WHERE id > $1 AND word <> $2 AND id < $3 ORDER BY id", [990, "no", 1000])
check("freshness", answer.freshness.startswith("facts: up to ["), True)
check("arrow", answer.arrow().column("id").to_pylist(), list(range(991, 1000)))
since = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
check("a time", daemon.sql("SELECT count(*) AS n FROM facts WHERE ts > $1 AND id < 1000", [since]).rows(), [{"n": 1000}])
check("pandas", list(daemon.sql("SELECT word, facts FROM words").pandas().columns), ["word", "facts"])
check("polars", daemon.sql("SELECT 1 AS a, 'ü' AS b").polars().rows(), [(1, "ü")])
word = daemon.sql("SELECT min(word) AS w FROM words").rows()[0]["w"]
check("a view's key", [row["word"] for row in daemon.view("words", word=word).rows()], [word])
e = fails("SQL", "invalid", lambda: daemon.sql("SELECT\n nothing FROM facts"))
check("its place", (e.line, e.column), (2, 2))
counted = daemon.sql("SELECT count(*) AS n FROM facts WHERE id > $1", [10], receipt=True)
for again in range(100):
    try:
        replayed = daemon.replay(counted.receipt)
        break
    except anabranch.client.Error as e:
        # Until what it saw has landed.
        check("a replay", e.kind, "unavailable")
        time.sleep(0.1)
check("replayed", (replayed["same"], replayed["then"]["values"]), (True, ["10"]))
check("no receipt", daemon.sql("SELECT 1 AS n").receipt, None)
fails("a forged receipt", "denied", lambda: daemon.replay(counted.receipt[:-4] + "AAAA"))
fails("no view", "not found", lambda: daemon.view("wrds"))
fails("nobody", "unavailable", lambda: anabranch.connect("http://127.0.0.1:9").sql("SELECT 1"))
late = "SELECT 100 / (value - 1900000) AS x, repeat('x', 100) AS y FROM generate_series(1, 2000000)"
fails("an answer that fails late", "unavailable", lambda: daemon.sql(late).arrow())

ts = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
frame = lambda start, rows: pandas.DataFrame({"ts": [ts] * rows, "id": range(start, start + rows), "word": ["p"] * rows})
taken = daemon.ingest("facts", frame(10_000, 2_500), batch_rows=1_000)
check("ingest", (taken.facts, taken.dead_letters), (2_500, 0))
check("seen", daemon.sql("SELECT count(*) AS n FROM facts WHERE id >= 10000", at_least=taken.token).rows(), [{"n": 2_500}])
for _ in range(2):
    taken = daemon.ingest("facts", polars.from_pandas(frame(20_000, 10)), key="once")
check("once", daemon.sql("SELECT count(*) AS n FROM facts WHERE id >= 20000").rows(), [{"n": 10}])
rows = [{"ts": ts, "id": 30_000, "word": "p"}, {"ts": None, "id": 30_001, "word": "p"}]
fails("strict", "invalid", lambda: daemon.ingest("facts", rows))
taken = daemon.ingest("facts", pyarrow.Table.from_pylist(rows), strict=False)
check("not strict", (taken.facts, taken.dead_letters), (1, 1))
fails("no topic", "not found", lambda: daemon.ingest("fcts", rows))

changes, rows = daemon.follow("words"), {}
for change in changes:
    if change["op"] in ("row", "added", "changed"):
        rows[change["new"]["word"]] = change["new"]
    if change["op"] == "at":
        break
check("followed", rows["p"]["facts"], 2_511)
daemon.ingest("facts", frame(40_000, 1))
for change in changes:
    if change["op"] == "changed":
        check("changed", (change["old"]["facts"], change["new"]["facts"]), (2_511, 2_512))
        break
shutil.rmtree(folder)
