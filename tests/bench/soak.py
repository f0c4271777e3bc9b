#!/usr/bin/env python3
"""A soak: facts at a steady rate for a long time, with refreshes, compactions, a rebuild, and the daemon and
jobs killed with SIGKILL at random; then the law, and the producer's own book against what SQL says.

    cargo build --release --workspace
    export ANABRANCH_KAFKA=$(tests/kafka/setup.sh)
    python=$(tests/bench/setup.sh)
    $python tests/bench/soak.py --out soak                       # 30 minutes, Kafka → folder
    $python tests/bench/soak.py --minutes 3 --source http --rate 5000
    $python tests/bench/soak.py --storage s3                     # Kafka → the tests' S3 server, which it starts
    $python tests/bench/soak.py --storage s3://bucket/soak --storage-dir DIR   # a server that runs already
    $python tests/bench/soak.py --source http --clients 64 --bombs --damage --descriptors 512   # all of it at once

Every two seconds it measures the daemon's memory, files, the time from produced to visible by SQL, and what is
acknowledged and not yet visible. `--out DIR` gets `samples.csv`, `soak.svg` and `summary.json`.

With `--clients` readers check every answer, with `--bombs` requests try to take the daemon, with `--damage` its files
are damaged while it runs, and `--descriptors` and `--process-memory` bound it.

Exit codes: 0 all equal and flat; 1 facts differ, a job failed, or a measure grew; 2 the soak could not be run.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time

import soak_parts
import soak_trouble
import soak_watch
from figures import _target, _whole
from project import Tools, run
from runs import Failure, machine, percentile, say
from soak_parts import TOPIC, TOTALS, VIEW

SAMPLE_SECONDS = 2.0

# As the producer sums them (`load/steady.rs`).
SUMS = "count(*) AS count, sum(id) AS sum, sum((id % 1000003) * (id % 1000003) % 1000003) AS squares"


def parser():
    out = argparse.ArgumentParser(prog="soak.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    release = os.path.join(_target(), "release")
    out.add_argument("--anabranch", default=os.path.join(release, "anabranch"), help="the binary (default: cargo's release)")
    out.add_argument("--load", help="the load generator (default: beside `--anabranch`)")
    out.add_argument("--minutes", type=float, default=30, help="how long facts are produced (default 30)")
    out.add_argument("--rate", type=_whole, default=20_000, help="facts a second (default 20000)")
    out.add_argument("--source", choices=["kafka", "http"], default="kafka", help="where facts come from (default kafka)")
    out.add_argument("--storage", default="file://./data", help="the storage's URL, or `s3` for the tests' S3 server (default: a folder in the project)")
    out.add_argument("--s3d", help="the tests' S3 server (default: beside `--anabranch`)")
    out.add_argument("--storage-dir", help="where the storage's files lie, to count them (default: the project's `data`)")
    out.add_argument("--partitions", type=_whole, default=4, help="Kafka's partitions (default 4)")
    out.add_argument("--refresh-every", type=float, default=10, help="seconds (default 10)")
    out.add_argument("--maintain-every", type=float, default=20, help="seconds (default 20)")
    out.add_argument("--kill-every", type=float, default=30, help="seconds between kills, on average; 0 for none (default 30)")
    out.add_argument("--clients", type=_whole, default=0, help="readers that check whether answers are consistent (default 0)")
    out.add_argument("--client-pause", type=float, default=4, help="seconds between the questions of each, on average (default 4)")
    out.add_argument("--bombs", action="store_true", help="send requests that once took a daemon: large, deep, expanding, endless, many")
    out.add_argument("--damage", action="store_true", help="flip a byte of a data file for a moment, again and again")
    out.add_argument("--damage-every", type=float, default=15, help="seconds (default 15)")
    out.add_argument("--descriptors", type=_whole, help="the most descriptors of the daemon (default: as many as it may have)")
    out.add_argument("--process-memory", help="`process_memory` of the daemon, which its resident memory keeps to")
    out.add_argument("--land-every", default="1s", help="the daemon's `land_every` (default 1s)")
    out.add_argument("--grace", default="20s", help="how long replaced files stay (default 20s)")
    out.add_argument("--seed", type=int, default=1, help="of the kills (default 1)")
    out.add_argument("--work", help="folder for the project and the broker, on the disk to use")
    out.add_argument("--out", help="folder for samples.csv, soak.svg and summary.json")
    return out


class Soak:
    """One soak from its start to its verdict."""

    def __init__(self, tools, options, folder):
        self.tools, self.options = tools, options
        self.chosen = random.Random(options.seed)
        self.project = os.path.join(folder, "project")
        self.broker = self.producer = self.bucket = None
        self.clients = self.bombs = self.damage = None
        self.samples, self.events, self.recoveries = [], [], []
        port = soak_parts.free_port()
        os.makedirs(self.project)
        self.daemon = soak_parts.Daemon(tools, self.project, port, options.descriptors)
        self.jobs = soak_parts.Jobs(tools, self.project)
        source = ""
        if options.source == "kafka":
            self.broker = soak_parts.Broker(tools, os.path.join(folder, "kafka"), options.partitions)
            source = soak_parts.KAFKA_SOURCE.format(bootstrap=self.broker.bootstrap)
        storage, of_storage = options.storage, ""
        self.files = options.storage_dir or os.path.join(self.project, "data")
        if storage == "s3":
            program = options.s3d or os.path.join(os.path.dirname(options.anabranch), "s3d")
            self.bucket = soak_parts.Bucket(program, os.path.join(folder, "buckets"))
            storage, of_storage, self.files = self.bucket.URL, self.bucket.settings, self.bucket.files
        settings = soak_parts.SETTINGS.format(
            storage=storage, of_storage=of_storage, grace=options.grace, port=port, land_every=options.land_every, source=source,
            query=f'process_memory = "{options.process_memory}"' if options.process_memory else "",
        )  # fmt: skip
        texts = {"anabranch.toml": settings, "minutes.sql": soak_parts.VIEW_SQL, "totals.sql": soak_parts.TOTALS_SQL}
        for name, text in texts.items():
            with open(os.path.join(self.project, name), "w", encoding="utf-8") as stream:
                stream.write(text)

    # ---- under load --------------------------------------------------------

    def run(self):
        self.daemon.start()
        self.daemon.await_answer()
        at = self.broker.bootstrap if self.broker else self.daemon.url
        self.producer = soak_parts.Producer(self.tools, self.options.source, at, self.options.rate)
        self.begun = time.monotonic()
        self._trouble()
        length = self.options.minutes * 60
        due = {"sample": 0, "refresh": self.options.refresh_every, "maintain": self.options.maintain_every}
        if self.damage:
            due["damage"] = self.options.damage_every
        due |= {"rebuild": length * 0.4, "kill": self._next_kill(0)}
        told = 0
        while (now := self._now()) < length:
            self.producer.check_alive()
            self.daemon.check_alive()
            for what in [what for what, at in due.items() if at <= now]:
                due[what] = self._do(what, now, length)
            if now - told >= 30:
                told = now
                last = self.samples[-1]
                say(f"{now:5.0f} s: {json.dumps(last)}")
            time.sleep(0.05)

    def _trouble(self):
        options = self.options
        if options.clients:
            self.clients = soak_trouble.Clients(self.daemon, self.producer, options.clients, options.client_pause, options.seed)
        if options.bombs:
            self.bombs = soak_trouble.Bombs(self.daemon, options.seed)
        if options.damage:
            self.damage = soak_trouble.Damage(self.daemon, self.files, random.Random(options.seed))
            self.jobs.was_damaged = self.damage.overlaps
            if self.clients:
                self.clients.was_damaged = self.damage.overlaps

    def _now(self):
        return time.monotonic() - self.begun

    def _next_kill(self, now):
        mean = self.options.kill_every
        # Time enough to come back before the next one.
        return now + mean / 2 + self.chosen.expovariate(2 / mean) if mean > 0 else float("inf")

    def _do(self, what, now, length):
        """Does what is due; when it is due again."""
        if what == "sample":
            self.samples.append(self._sample())
            return now + SAMPLE_SECONDS
        if what == "damage":
            self._damage()
            # As long as there are kills.
            again = self._now() + self.options.damage_every
            return again if again < length * 0.95 else float("inf")
        if what == "kill":
            self._kill()
            # The last minutes show that it becomes flat again.
            again = self._next_kill(self._now())
            return again if again < length * 0.95 else float("inf")
        every = {"refresh": self.options.refresh_every, "maintain": self.options.maintain_every, "rebuild": length}[what]
        if what == "rebuild" and "refresh" in self.jobs.running:
            return now + 1
        if self.jobs.start(what) and what != "refresh":
            self.events.append((now, what))
        return now + every

    def _kill(self):
        if self.chosen.random() < 0.3 and (kind := self.jobs.kill_one(self.chosen)):
            self.events.append((self._now(), f"kill {kind}"))
            if kind == "rebuild":
                # It has to happen.
                self.jobs.start("rebuild")
            return
        acknowledged = self.producer.latest["acknowledged"]
        killed = time.monotonic()
        self.events.append((self._now(), "kill"))
        self.daemon.kill()
        self.daemon.start()
        while (visible := self._visible()) is None or visible < acknowledged:
            self.daemon.check_alive()
            if time.monotonic() - killed > soak_parts.PATIENCE_SECONDS:
                raise Failure(f"{visible} of {acknowledged} facts visible {soak_parts.PATIENCE_SECONDS} s after a kill: {self.daemon.said()}")
            time.sleep(0.02)
        self.recoveries.append(time.monotonic() - killed)

    def _damage(self):
        # What is acknowledged over HTTP is visible.
        least = self.producer.latest["acknowledged"] if self.options.source == "http" else 0
        self.events.append((self._now(), "damage"))
        self.damage.strike(least)

    def _visible(self):
        rows = self.daemon.sql(f"SELECT facts FROM {TOTALS}")
        return None if rows is None else rows[0]["facts"] or 0

    def _sample(self):
        acknowledged = self.producer.latest["acknowledged"]
        newest = self.daemon.sql(f"SELECT CAST(max(last_at) AS BIGINT) AS us FROM {VIEW} WHERE minute >= now() - INTERVAL '2 minutes'")
        fresh = newest[0]["us"] if newest else None
        freshness = time.time() - fresh / 1e6 if fresh else None
        visible = self._visible()
        log, everything = self._count_files()
        return {
            "seconds": round(self._now(), 2), "memory_bytes": self.daemon.memory_bytes(), "log_files": log,
            "all_files": everything, "freshness_seconds": freshness and round(freshness, 3), "visible": visible,
            "acknowledged": acknowledged, "lag_facts": None if visible is None else max(0, acknowledged - visible),
            "descriptors": self.daemon.open_descriptors(),
        }  # fmt: skip

    def _count_files(self):
        log = everything = 0
        for folder, _, names in os.walk(self.files):
            everything += len(names)
            if folder.endswith(f"topics/{TOPIC}/log"):
                log += sum(name.endswith(".parquet") for name in names)
        return log, everything

    # ---- the verdict -------------------------------------------------------

    def settle(self):
        """Ends the stream; what is wrong, and what the book says."""
        for trouble in (self.clients, self.bombs):
            if trouble:
                trouble.stop()
        book = self.producer.stop()
        self.jobs.await_all()
        wrong = list(self.jobs.failures)
        for trouble in (self.clients, self.bombs, self.damage):
            if trouble:
                wrong += trouble.wrong
                if not trouble.counts:
                    wrong.append(f"{type(trouble).__name__.lower()}: nothing was done")
        most = max([s["descriptors"] for s in self.samples if s["descriptors"]] + [0])
        if self.options.descriptors and most >= self.options.descriptors:
            wrong.append(f"{most} of {self.options.descriptors} descriptors were open")
        expected = book["all"]["count"]
        begun = time.monotonic()
        while (self._visible() or 0) < expected and time.monotonic() - begun < soak_parts.PATIENCE_SECONDS:
            self.daemon.check_alive()
            time.sleep(0.2)
        wrong += self._compare("the daemon", book, self.daemon.sql)
        wrong += self._verify("with the daemon")
        run([self.tools.anabranch, "--project", self.project, "batch", "refresh"])
        self.daemon.stop()
        wrong += self._compare("the log", book, lambda sql: soak_parts.command(self.tools, self.project, "sql", "-c", sql))
        wrong += self._verify("after the daemon")
        return wrong, book

    def _compare(self, who, book, ask):
        expected = {int(p): {k: int(v) for k, v in sums.items()} for p, sums in book["partitions"].items()}
        for first, end in book["unknown"]:
            # Requests that got no answer: each is in whole, or not at all.
            for partition, n in [(r["p"], int(r["n"])) for r in ask(
                f"SELECT _partition AS p, count(*) AS n FROM {TOPIC} WHERE id >= {first} AND id < {end} GROUP BY 1"
            )]:  # fmt: skip
                if n != end - first:
                    return [f"{who}: {n} facts of the unanswered request [{first}, {end})"]
                sums = expected.setdefault(partition, {"count": 0, "sum": 0, "squares": 0})
                sums["count"] += n
                sums["sum"] += sum(range(first, end))
                sums["squares"] += sum((i % 1000003) ** 2 % 1000003 for i in range(first, end))
        rows = ask(f"SELECT _partition AS p, {SUMS} FROM {TOPIC} GROUP BY 1")
        found = {row["p"]: {key: int(row[key]) for key in ("count", "sum", "squares")} for row in rows}
        wrong = []
        if found != expected:
            wrong.append(f"{who}: the facts are {found}, the producer's book says {expected}")
        totals = {key: sum(sums[key] for sums in expected.values()) for key in ("count", "sum")}
        for view in (VIEW, TOTALS):
            said = ask(f"SELECT sum(facts) AS count, sum(ids) AS sum FROM {view}")[0]
            if {key: int(said[key] or 0) for key in totals} != totals:
                wrong.append(f"{who}: `{view}` says {said}, the producer's book says {totals}")
        return wrong

    def _verify(self, when):
        try:
            run([self.tools.anabranch, "--project", self.project, "verify"])
            return []
        except Failure as failure:
            return [f"verify {when}: {failure}"]

    def end(self):
        """Ends what still runs."""
        for trouble in (self.clients, self.bombs):
            if trouble:
                trouble.stopping.set()
        self.jobs.kill_all()
        if self.producer and self.producer.process.poll() is None:
            self.producer.process.kill()
        if self.daemon.process and self.daemon.process.poll() is None:
            self.daemon.kill()
        for server in (self.broker, self.bucket):
            if server:
                server.end()


def summary(soak, wrong, book):
    # What a daemon grows to in its first minutes is much of a short soak.
    verdicts = soak_watch.verdicts(soak.samples, slack=1 if soak.options.minutes >= 10 else 3)
    fresh = [s["freshness_seconds"] for s in soak.samples if s["freshness_seconds"] is not None]
    kills = [kind for _, kind in soak.events if kind.startswith("kill")]
    out = {
        "machine": machine(), "options": vars(soak.options), "facts": book["all"]["count"],
        "unknown": sum(end - first for first, end in book["unknown"]), "wrong": wrong, "flat": verdicts,
        "jobs": soak.jobs.done, "conflicts": soak.jobs.conflicts, "kills": {kind: kills.count(kind) for kind in sorted(set(kills))},
    }  # fmt: skip
    for name in ("clients", "bombs", "damage"):
        trouble = getattr(soak, name)
        if trouble:
            out[name] = trouble.counts
    if soak.damage:
        out["jobs_that_met_damage"] = soak.jobs.damaged
    memory = [s["memory_bytes"] for s in soak.samples if s["memory_bytes"]]
    out["most"] = {"memory_bytes": max(memory, default=None), "descriptors": max([s["descriptors"] or 0 for s in soak.samples], default=None)}
    if fresh:
        out["freshness_seconds"] = {"median": statistics.median(fresh), "p99": percentile(fresh, 0.99)}
    if soak.recoveries:
        out["recovery_seconds"] = {"median": round(statistics.median(soak.recoveries), 2), "most": round(max(soak.recoveries), 2)}
    return out


def tell(report):
    print(f"{report['facts']:,} facts acknowledged; jobs {report['jobs']}, {report['conflicts']} conflicts; kills {report['kills']}")
    for name in ("clients", "bombs", "damage", "jobs_that_met_damage", "most"):
        if name in report:
            print(f"{name}: {report[name]}")
    for name in ("freshness_seconds", "recovery_seconds"):
        print(f"{name}: {report.get(name)}")
    for verdict in report["flat"]:
        if "why" in verdict:
            print(f"NOT FLAT  {verdict['what']}: {verdict['why']}")
            continue
        word = "flat    " if verdict["flat"] else "NOT FLAT"
        print(f"{word}  {verdict['what']}: {verdict['middle']:.4g} in the middle third, {verdict['last']:.4g} in the last (at most {verdict['limit']:.4g})")
    for text in report["wrong"]:
        print(f"WRONG     {text}")
    if not report["wrong"]:
        print("equal: the producer's book, SQL, and `anabranch verify`")


def main():
    options = parser().parse_args()
    work = soak = None
    try:
        load = options.load or os.path.join(os.path.dirname(options.anabranch), "load")
        tools = Tools(options.anabranch, load)
        if options.out:
            os.makedirs(options.out, exist_ok=True)
        if options.work:
            os.makedirs(options.work, exist_ok=True)
        work = tempfile.mkdtemp(prefix="anabranch-soak-", dir=options.work)
        soak = Soak(tools, options, work)
        soak.run()
        report = summary(soak, *soak.settle())
    except Failure as failure:
        say(f"soak.py: {failure}")
        return 2
    finally:
        if soak:
            soak.end()
            if options.out:
                soak_watch.write_csv(os.path.join(options.out, "samples.csv"), soak.samples)
                with open(os.path.join(options.out, "soak.svg"), "w", encoding="utf-8") as stream:
                    stream.write(soak_watch.svg(soak.samples, soak.events))
        if work:
            shutil.rmtree(work, ignore_errors=True)
    if options.out:
        with open(os.path.join(options.out, "summary.json"), "w", encoding="utf-8") as stream:
            json.dump(report, stream, indent=1)
    tell(report)
    return 0 if not report["wrong"] and all(v["flat"] for v in report["flat"]) else 1


if __name__ == "__main__":
    sys.exit(main())
