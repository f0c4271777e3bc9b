"""Runs every command of `peers.py` on small facts of its own: `$(tests/bench/setup.sh) tests/bench/peers_test.py`."""

import datetime
import decimal
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

import deltalake
import pyarrow
import pyarrow.parquet

import peers
import runs
from values import plain, same

HERE = os.path.dirname(os.path.abspath(__file__))
START = 1_772_323_200  # 2026-03-01T00:00:00Z
FACTS = 20_000
UTC = datetime.timezone.utc


def facts():
    """Six hours of facts in order: five stories of unlike popularity, visitors who come back, some nulls."""
    numbers = range(FACTS)
    return pyarrow.table(
        {
            "ts": pyarrow.array([(START + n * 6 * 3600 // FACTS) * 1_000_000 + n % 7 for n in numbers], pyarrow.timestamp("us", "UTC")),
            "url": [f"/story/{next(d for d in (13, 5, 3, 2, 1) if n % d == 0)}" for n in numbers],
            "visitor": [None if n % 101 == 0 else f"v{n * 7919 % 3000}" for n in numbers],
            "engaged_ms": pyarrow.array([None if n % 2 else n % 60_000 for n in numbers], pyarrow.int64()),
            "_offset": pyarrow.array(numbers, pyarrow.int64()),
        }
    )


class Commands(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="anabranch-peers-test-")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.table = facts()
        # Characters that mean something in a pattern, in SQL and in Hive's layout.
        cls.plain = os.path.join(cls.folder, "it's {a,b} day=1")
        cls.delta = os.path.join(cls.folder, "delta")
        os.mkdir(cls.plain)
        half = FACTS // 2
        for number, part in enumerate((cls.table.slice(0, half), cls.table.slice(half))):
            pyarrow.parquet.write_table(part, os.path.join(cls.plain, f"part-{number}.parquet"), compression="zstd")
            deltalake.write_deltalake(cls.delta, part, mode="append")
        # As a crash before the commit would leave it: not part of the table.
        pyarrow.parquet.write_table(cls.table, os.path.join(cls.delta, "part-stray.parquet"))
        cls.ndjson = os.path.join(cls.folder, "facts.ndjson")
        with open(cls.ndjson, "w", encoding="utf-8") as stream:
            for row in cls.table.drop_columns(["_offset"]).to_pylist():
                stream.write(json.dumps({**row, "ts": plain(row["ts"]), "undeclared": 1}) + "\n")
        cls.groups = cls.table.append_column("minute", pyarrow.compute.floor_temporal(cls.table["ts"], unit="minute"))
        cls.groups = cls.groups.group_by(["minute", "url"]).aggregate([]).num_rows

    def peers(self, *arguments, code=0):
        """Runs the command; its report, or what it said on stderr where it should fail."""
        done = subprocess.run([sys.executable, os.path.join(HERE, "peers.py"), *arguments], capture_output=True, text=True)
        self.assertEqual(done.returncode, code, done.stderr)
        if code == 2:
            self.assertEqual(done.stdout, "")
            self.assertNotIn("Traceback", done.stderr)
            return done.stderr
        self.assertEqual(done.stdout.count("\n"), 1)
        return json.loads(done.stdout)

    def test_rebuild_counts_every_fact_once(self):
        out = os.path.join(self.folder, "out")
        for engine in ("clickhouse", "duckdb"):
            for place in (self.plain, self.delta):
                for order in ([], ["--sorted"]):
                    with self.subTest(engine=engine, place=place, order=order):
                        report = self.peers("rebuild", "--facts", place, "--engine", engine, "--out", out, "--runs", "2", *order)
                        self.assertEqual((report["groups"], report["facts"]["rows"]), (self.groups, FACTS))
                        self.assertEqual(len(report["seconds"]["samples"]), 2)
        # Nothing but the views is left: no links, no spilled data.
        self.assertEqual(len(os.listdir(out)), 4)

    def test_a_view_out_of_order_or_short_is_refused(self):
        file = os.path.join(self.folder, "view.parquet")
        keys = {"minute": [1, 1, 2], "url": ["a", None, "a"], "page_views": [1, 1, 1]}
        pyarrow.parquet.write_table(pyarrow.table(keys), file)
        self.assertEqual(peers._inspect(file, True, 3)["groups"], 3)
        for rows, changed in ((4, {}), (3, {"url": [None, "a", "a"]}), (3, {"minute": [2, 1, 3]}), (3, {"url": ["a", "a", "a"]})):
            pyarrow.parquet.write_table(pyarrow.table({**keys, **changed}), file)
            with self.assertRaises(runs.Failure):
                peers._inspect(file, True, rows)

    def test_ingest_reports_each_block_size(self):
        report = self.peers("ingest", "--facts", self.ndjson, "--engine", "clickhouse", "--runs", "1", "--block-rows", "3000,20000")
        self.assertEqual([(b["block_rows"], b["rows"]) for b in report["blocks"]], [(3000, FACTS), (20000, FACTS)])
        limited = self.peers(
            "ingest", "--facts", self.ndjson, "--engine", "clickhouse", "--runs", "1",
            "--block-rows", "1000", "--limit-rows", "2500", "--fsync",
        )  # fmt: skip
        self.assertEqual((limited["blocks"][0]["rows"], limited["fsync"]), (2500, True))

    def test_ingest_refuses_what_is_no_fact(self):
        bad = os.path.join(self.folder, "bad.ndjson")
        for content in ("", '{"ts": "yesterday", "url": 3\n'):
            with open(bad, "w") as stream:
                stream.write(content)
            self.peers("ingest", "--facts", bad, "--engine", "clickhouse", "--runs", "1", code=2)

    def test_top10_answers_as_duckdb_does(self):
        for end in (START + 6 * 3600, START + 5 * 3600 + 60):
            iso = datetime.datetime.fromtimestamp(end, UTC).isoformat()
            report = self.peers("top10", "--facts", self.delta, "--engine", "clickhouse", "--end", iso, "--runs", "3")
            answer = {
                # `uniq` is exact for so few visitors.
                "sql": f"SELECT url, count(*) AS page_views, count(DISTINCT visitor) AS visitors FROM facts "
                f"WHERE ts >= '{iso}'::timestamptz - INTERVAL 4 HOURS AND ts < '{iso}' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 10",
                "columns": report["columns"],
                "rows": report["rows"],
            }
            self.assertEqual(self.check([answer])["differing"], 0)
        default = self.peers("top10", "--facts", self.delta, "--engine", "clickhouse", "--runs", "1")
        self.assertEqual(default["end"], "2026-03-01T06:00:00Z")
        self.assertIn("no facts between", self.peers("top10", "--facts", self.delta, "--engine", "clickhouse", "--end", "2020-01-01", code=2))

    def check(self, answers, code=0):
        file = os.path.join(self.folder, "answers.json")
        with open(file, "w") as stream:
            json.dump(answers, stream)
        return self.peers("check", "--facts", self.plain, "--engine", "duckdb", "--answers", file, code=code)

    def test_check_tells_right_answers_from_wrong_ones(self):
        right = {
            "sql": "SELECT url, count(*) AS n, min(ts) AS t, avg(_offset) AS a FROM facts WHERE _offset < 3 GROUP BY 1 ORDER BY 1",
            "columns": ["url", "n", "t", "a"],
            "rows": [["/story/1", 1, "2026-03-01T00:00:01.000001Z", 1.0], ["/story/13", 1, "2026-03-01 00:00:00+00:00", 0.0], ["/story/2", 1, "2026-03-01T00:00:02.000002", 2.0]],
        }  # fmt: skip
        self.assertEqual(self.check({"right": right})["answers"], 1)
        rows = right["rows"]
        for wrong in (
            {"rows": rows[:2]},
            {"rows": rows[::-1]},
            {"rows": [["/story/1", 2, *rows[0][2:]], *rows[1:]]},
            {"rows": [[*rows[0][:3], 1.00001], *rows[1:]]},
            {"rows": [[*rows[0][:2], "2026-03-01T00:00:01.000002Z", 1.0], *rows[1:]]},
            {"columns": ["url", "n", "t", "b"]},
            {"sql": "SELECT nothing FROM facts"},
        ):
            report = self.check([right, {**right, **wrong}], code=1)
            self.assertEqual(list(report["differences"]), ["answer 1"])
        self.check([], code=2)
        self.check([{"sql": "SELECT 1"}], code=2)

    def test_read_delta_reads_the_log(self):
        sql = "SELECT url, max(ts) AS t, count(*) AS n FROM facts WHERE _offset < 2 GROUP BY 1 ORDER BY 1"
        report = self.peers("read-delta", "--table", self.delta, "--sql", sql)
        self.assertEqual(report["rows"], [["/story/1", "2026-03-01T00:00:01.000001Z", 1], ["/story/13", "2026-03-01T00:00:00Z", 1]])
        whole = self.peers("read-delta", "--table", self.delta, "--as", "log", "--sql", "SELECT count(*) AS n FROM log")
        self.assertEqual((whole["columns"], whole["rows"], whole["delta_version"]), (["n"], [[FACTS]], 1))
        self.peers("read-delta", "--table", self.plain, "--sql", "SELECT 1", code=2)
        self.peers("read-delta", "--table", self.delta, "--sql", "SELECT nothing FROM facts", code=2)

    def test_a_missing_folder_is_named(self):
        nowhere = os.path.join(self.folder, "nowhere")
        for arguments in (
            ["rebuild", "--engine", "duckdb", "--out", self.folder, "--facts"],
            ["rebuild", "--engine", "clickhouse", "--out", self.folder, "--facts"],
            ["ingest", "--engine", "clickhouse", "--facts"],
            ["top10", "--engine", "clickhouse", "--facts"],
            ["read-delta", "--sql", "SELECT 1", "--table"],
            ["check", "--engine", "duckdb", "--facts", self.plain, "--answers"],
        ):
            self.assertIn(f"`{nowhere}`", self.peers(*arguments, nowhere, code=2))
        empty = os.path.join(self.folder, "empty")
        os.makedirs(empty)
        self.assertIn("holds no facts", self.peers("rebuild", "--engine", "duckdb", "--out", self.folder, "--facts", empty, code=2))
        with open(os.path.join(empty, "part-0.parquet"), "w") as stream:
            stream.write("not Parquet")
        self.assertIn("part-0.parquet", self.peers("rebuild", "--engine", "duckdb", "--out", self.folder, "--facts", empty, code=2))

    def test_a_killed_run_is_an_error(self):
        with self.assertRaisesRegex(runs.Failure, "-9"):
            runs.in_child(_die)


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


class Values(unittest.TestCase):
    def test_same(self):
        moment = datetime.datetime(2026, 3, 1, 12, tzinfo=UTC)
        for ours, theirs in (
            (1, 1), (1.0, 1), (0.3, 0.1 + 0.2), (3, 3.0), (None, None), (True, True), ("a", "a"), ("NaN", math.nan),
            ("-Infinity", -math.inf), ("2026-03-01T13:00:00+01:00", moment), ("2026-03-01", datetime.date(2026, 3, 1)),
            (7, decimal.Decimal(7)), ("1.25", decimal.Decimal("1.25")), (1.25, decimal.Decimal("1.25")),
            ([1, None], [1, None]), ({"a": 1.5}, {"a": 1.5}), ("61", b"a"),
            ("6:22:54", pyarrow.MonthDayNano([0, 0, 22_974_000_000_000])),
        ):  # fmt: skip
            self.assertTrue(same(ours, theirs), (ours, theirs))
        for ours, theirs in (
            (2, 1), (1.5, 1), ("1", 1), (1, True), (True, 1), (0, None), (None, 0), (1.0 + 1e-8, 1.0), ("1", 1.0), (1, "1"),
            (math.nan, 1.0), ("2026-03-01T12:00:00.000001Z", moment), ("soon", moment), (5, moment),
            ("2026-03-01T01:00:00Z", datetime.date(2026, 3, 1)), (8, decimal.Decimal(7)), ("1.26", decimal.Decimal("1.25")),
            ([1], [1, 2]), ({"a": 1}, {"b": 1}), ("62", b"a"), ("6:22:55", pyarrow.MonthDayNano([0, 0, 22_974_000_000_000])),
        ):  # fmt: skip
            self.assertFalse(same(ours, theirs), (ours, theirs))

    def test_percentile_is_a_measured_value(self):
        self.assertEqual(runs.percentile([5, 1, 4, 2, 3], 0.5), 3)
        self.assertEqual(runs.percentile(list(range(20)), 0.99), 19)
        self.assertEqual(runs.percentile(list(range(200)), 0.99), 197)


if __name__ == "__main__":
    unittest.main()
