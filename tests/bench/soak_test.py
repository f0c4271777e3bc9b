"""The logic of `soak.py`: `$(tests/bench/setup.sh) tests/bench/soak_test.py`.

With `ANABRANCH_BIN=FOLDER` (of the binaries `anabranch` and `load`) a short soak over HTTP runs too; without it
that test says that it is skipped.
"""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
import xml.dom.minidom

import soak_trouble
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


class Troubles(unittest.TestCase):
    """What is wrong of the answers that a soak's readers, bombs and damage see."""

    @staticmethod
    def row(facts, ids, by_minute, ids_by_minute):
        return 200, json.dumps([{"facts": facts, "ids": ids, "by_minute": by_minute, "ids_by_minute": ids_by_minute}])

    def clients(self):
        class Producer:
            name, to, latest = "steady", "http", {"acknowledged": 0}

        return soak_trouble.Clients(None, Producer, 0, 1, 1)

    def test_answers_go_forward_and_agree(self):
        clients = self.clients()
        self.assertEqual(clients.judge(self.row(5, 9, 5, "9"), True, 3, False), 5)
        self.assertEqual(clients.judge(None, True, 5, False), 5)
        self.assertEqual(clients.judge((503, "full"), True, 5, False), 5)
        self.assertEqual(clients.judge((500, "damaged"), True, 5, True), 5)
        self.assertEqual(clients.wrong, [])
        for answer in [self.row(4, 9, 4, 9), self.row(6, 9, 5, 9), self.row(6, 9, 6, 8), (500, "damaged")]:
            before = len(clients.wrong)
            clients.judge(answer, True, 5, False)
            self.assertEqual(len(clients.wrong), before + 1, answer)

    def test_bombs_are_refused(self):
        bombs = soak_trouble.Bombs.__new__(soak_trouble.Bombs)
        soak_trouble.Trouble.__init__(bombs, None, 1)
        for answer in [None, (400, "deep"), (503, "full")]:
            bombs.judge("it", answer, (400, *soak_trouble.AWAY))
        self.assertEqual(bombs.wrong, [])
        bombs.judge("it", (200, "[]"), (400,))
        self.assertEqual((len(bombs.wrong), bombs.counts), (1, {"it": 4}))

    def test_damage_is_put_back_and_never_answered(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("topics", "views"):
                os.makedirs(os.path.join(folder, name, "it"))
            path = os.path.join(folder, "views", "it", "part.parquet")
            other = os.path.join(folder, "topics", "it", "part.parquet")
            shutil.copy(__file__, other)
            with open(path, "wb") as stream:
                stream.write(b"facts")
            damage = soak_trouble.Damage(None, folder, random.Random(1))
            seen = []

            def ask(*_):
                with open(path, "rb") as stream:
                    seen.append(stream.read())
                return 500, json.dumps({"kind": "corrupt"})

            with unittest.mock.patch.object(soak_trouble, "ask", ask):
                while not seen or seen[-1] == b"facts":
                    damage.strike(0)
            with open(path, "rb") as stream:
                self.assertEqual(stream.read(), b"facts")
            with open(__file__, "rb") as own, open(other, "rb") as stream:
                self.assertEqual(stream.read(), own.read())
            self.assertEqual(damage.wrong, [])
            self.assertTrue(damage.overlaps(0, float("inf")) and not damage.overlaps(0, 0))
            for answer in [(500, json.dumps({"kind": "invalid"})), self.row(5, 9, 4, 9), self.row(4, 9, 4, 9)]:
                before = len(damage.wrong)
                damage.judge(path, answer, 5)
                self.assertEqual(len(damage.wrong), before + 1, answer)


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
