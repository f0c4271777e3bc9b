"""The logic of `figures.py`: `$(tests/bench/setup.sh) tests/bench/figures_test.py`.

With `ANABRANCH_BIN=FOLDER` (of the binaries `anabranch` and `load`) every figure is also measured
once, small; without it that test says that it is skipped.
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest

import figures
import measures_live
from project import metric_of, resident_of
from runs import Failure
from table import Row, aligned, number

HERE = os.path.dirname(os.path.abspath(__file__))


class Reading(unittest.TestCase):
    def test_a_metric_is_summed_over_its_labels(self):
        text = '# HELP facts of facts\nfacts{topic="a"} 3\nfacts{topic="b"} 4.5\nfacts_more{topic="a"} 9\n'
        self.assertEqual(metric_of(text, "facts"), 7.5)
        with self.assertRaises(Failure):
            metric_of(text, "fact")

    def test_resident_memory_is_in_bytes(self):
        self.assertEqual(resident_of("VmHWM:\t 9 kB\nVmRSS:\t    12 kB\n"), 12_288)
        with self.assertRaises(Failure):
            resident_of("Name: zombie\n")

    def test_commits_are_read_from_the_log(self):
        said = (
            "DEBUG landed table=t version=3 facts=50 file_us=900 commit_us=1250\n"
            "INFO ready commit_us=7\nDEBUG landed table=t version=4 facts=50 file_us=1100 commit_us=800\n"
        )
        self.assertEqual(measures_live.commit_times(said), [1.25, 0.8])
        self.assertEqual(measures_live.file_times(said), [0.9, 1.1])

    def test_an_answer_that_differs_is_refused(self):
        ours = [{"url": "/a", "page_views": 7, "visitors": 99}]
        measures_live._compare(ours, [["/a", 7, 100]])
        for theirs in ([["/a", 8, 100]], [["/b", 7, 100]], [["/a", 7, 120]]):
            with self.assertRaises(Failure):
                measures_live._compare(ours, theirs)
        with self.assertRaises(ValueError):
            measures_live._compare(ours, [])


class Table(unittest.TestCase):
    def test_columns_stand_under_their_heads(self):
        rows = [Row("rebuild", "time", "s", [4.0, 3.9, 4.2], [6.3], note="n"), Row("ingest", "rate", "facts/s", [883_000.4])]
        head, first, second = aligned(rows).splitlines()
        self.assertIn("4 (3.9 to 4.2)", first)
        self.assertTrue(second.endswith("883,000"))
        end = head.index("anabranch") + len("anabranch")
        self.assertEqual(first[:end].rstrip()[-1], ")")
        self.assertEqual(len(second), end)

    def test_numbers_keep_what_means_something(self):
        self.assertEqual([number(n) for n in (0.01234, 9.876, 99.5, 1234.5)], ["0.0123", "9.88", "99.5", "1,234"])

    def test_json_has_every_sample(self):
        row = Row("rebuild", "time", "s", [3, 1, 2], duckdb=[9]).json()
        self.assertEqual(row["ours"], {"median": 2, "samples": [3, 1, 2]})
        self.assertEqual(row["duckdb"]["median"], 9)
        self.assertNotIn("clickhouse", row)


class Command(unittest.TestCase):
    def run_figures(self, *arguments):
        return subprocess.run(
            [sys.executable, os.path.join(HERE, "figures.py"), *map(str, arguments)], capture_output=True, text=True
        )

    def test_what_is_not_there_is_named(self):
        done = self.run_figures("rebuilt")
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertIn("`rebuilt`", done.stderr)
        done = self.run_figures("rebuild", "--anabranch", "/nowhere/anabranch")
        self.assertEqual(done.returncode, 2)
        self.assertIn("/nowhere/anabranch", done.stderr)

    def test_every_figure_is_measured(self):
        folder = os.environ.get("ANABRANCH_BIN")
        if not folder:
            self.skipTest("ANABRANCH_BIN names no folder of binaries")
        with tempfile.TemporaryDirectory() as work:
            out = os.path.join(work, "figures.json")
            done = self.run_figures(
                "--anabranch", os.path.join(folder, "anabranch"), "--runs", 1, "--work", work, "--out", out,
                "--facts", 200_000, "--landings", 40, "--ingest-facts", 50_000, "--rate", 5_000, "--seconds", 3,
                "--delta-facts", 20_000, "--times", 5, "--lookups", 50, "--recovery-facts", 100_000, "--log-files", 300,
                "--many-topics", 20, "--many-views", 10,
            )  # fmt: skip
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(out, encoding="utf-8") as stream:
                report = json.load(stream)
            self.assertEqual({row["figure"] for row in report["rows"]}, set(figures.FIGURES))
            self.assertEqual(report["failures"], {})
            for row in report["rows"]:
                self.assertTrue(row["ours"]["samples"], row)


if __name__ == "__main__":
    unittest.main()
