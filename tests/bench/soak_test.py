"""The logic of `soak.py`: `$(tests/bench/setup.sh) tests/bench/soak_test.py`.

With `ANABRANCH_BIN=FOLDER` (of the binaries `anabranch` and `load`) a short soak over HTTP runs too; without it
that test says that it is skipped.
"""

import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import unittest
import xml.dom.minidom

import soak_watch
from soak import Soak, parser

HERE = os.path.dirname(os.path.abspath(__file__))


def samples(**of):
    """A sample every second for ten minutes; what a field is, as a function of the second."""
    still = {"memory_bytes": 1e8, "log_files": 20, "all_files": 90, "freshness_seconds": 0.2, "visible": 0, "acknowledged": 0, "lag_facts": 0}
    return [{"seconds": s} | still | {field: value(s) for field, value in of.items()} for s in range(600)]


def unequal(**of):
    return [v["what"] for v in soak_watch.verdicts(samples(**of)) if not v["flat"]]


class Flatness(unittest.TestCase):
    def test_noise_and_one_bad_moment_are_flat(self):
        noise = random.Random(1)
        self.assertEqual(unequal(memory_bytes=lambda s: 1e8 + noise.random() * 4e7, freshness_seconds=lambda s: 9 if s == 500 else 0.2), [])

    def test_what_grows_with_time_is_not(self):
        self.assertEqual(unequal(memory_bytes=lambda s: 1e8 + s * 1e6), ["memory of the daemon (MB)"])
        self.assertEqual(unequal(log_files=lambda s: s), ["data files in the log's folder"])
        self.assertEqual(unequal(freshness_seconds=lambda s: s / 100), ["produced → visible by SQL (s)"])
        self.assertEqual(unequal(lag_facts=lambda s: s * 500), ["acknowledged, not yet visible (facts)"])

    def test_what_was_never_measured_is_not(self):
        self.assertEqual(len(unequal(freshness_seconds=lambda s: None)), 1)
        self.assertEqual([v["flat"] for v in soak_watch.verdicts([])], [False] * 4)


class Picture(unittest.TestCase):
    def test_gaps_and_events_are_drawn(self):
        gap = samples(freshness_seconds=lambda s: None if 100 < s < 110 else 1.0)
        text = soak_watch.svg(gap, [(105, "kill"), (200, "rebuild"), (3, "kill refresh")])
        drawn = xml.dom.minidom.parseString(text)
        self.assertEqual(len(drawn.getElementsByTagName("polyline")), 5)
        self.assertEqual(len(drawn.getElementsByTagName("line")), 8)


class Book(unittest.TestCase):
    """The producer's book against what SQL says."""

    def setUp(self):
        self.soak = Soak.__new__(Soak)
        self.book = {"partitions": {"0": {"count": 3, "sum": "3", "squares": "5"}}, "unknown": [[3, 5]]}

    def compare(self, unanswered, count, total, squares):
        rows = {"id >= 3": unanswered, "squares": [{"p": 0, "count": count, "sum": total, "squares": squares}],
                "sum(facts)": [{"count": count, "sum": total}]}  # fmt: skip
        return self.soak._compare("it", self.book, lambda sql: next(rows[key] for key in rows if key in sql))

    def test_an_unanswered_request_is_in_whole_or_not_at_all(self):
        self.assertEqual(self.compare([], 3, 3, 5), [])
        self.assertEqual(self.compare([{"p": 0, "n": 2}], 5, 10, 30), [])
        self.assertEqual(len(self.compare([{"p": 0, "n": 1}], 4, 6, 14)), 1)

    def test_a_lost_or_doubled_fact_is_told(self):
        self.assertEqual(len(self.compare([], 2, 2, 4)), 3)
        self.assertEqual(len(self.compare([], 3, 3, 9)), 1)


class Soaking(unittest.TestCase):
    def test_a_short_soak(self):
        folder = os.environ.get("ANABRANCH_BIN")
        if folder is None:
            print("skipped: `ANABRANCH_BIN` names no folder of binaries", file=sys.stderr)
            return
        with tempfile.TemporaryDirectory() as out:
            done = subprocess.run(
                [sys.executable, os.path.join(HERE, "soak.py"), "--anabranch", os.path.join(folder, "anabranch"), "--out", out,
                 "--minutes", "0.5", "--source", "http", "--rate", "2000", "--kill-every", "8", "--refresh-every", "3", "--maintain-every", "5"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            with open(os.path.join(out, "summary.json"), encoding="utf-8") as stream:
                report = json.load(stream)
            self.assertEqual(report["wrong"], [])
            self.assertGreater(report["facts"], 50_000)
            self.assertGreater(sum(report["kills"].values()), 0)
            with open(os.path.join(out, "samples.csv"), encoding="utf-8") as stream:
                self.assertGreater(len(list(csv.DictReader(stream))), 10)

    def test_the_default_is_the_issues(self):
        options = parser().parse_args([])
        self.assertEqual((options.minutes, options.rate, options.source), (30, 20_000, "kafka"))


if __name__ == "__main__":
    unittest.main()
