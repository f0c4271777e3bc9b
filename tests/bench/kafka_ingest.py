#!/usr/bin/env python3
"""Measures Kafka → durable and visible: a backlog in a real broker, read by a daemon with one view.

    cargo build --release --workspace
    export ANABRANCH_KAFKA=$(tests/kafka/setup.sh)
    python3 tests/bench/kafka_ingest.py --facts 5000000

The broker shares the machine. Printed: facts and megabytes of values a second from the daemon's
start until all facts have landed, and until the view answers with all of them.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from runs import Failure, say

PROJECT = """
[storage]
url = "file://./data"
[daemon]
http = "127.0.0.1:0"
land_every = "1s"
[topics.facts]
event_time = "ts"
[topics.facts.fields]
ts = "timestamp not null"
id = "bigint not null"
url = "varchar not null"
visitor = "varchar"
section = "varchar"
engaged_ms = "bigint"
[topics.facts.source.kafka]
brokers = "BROKERS"
group = "GROUP"
[views.posts]
sql = "posts.sql"
"""
SQL = "SELECT date_trunc('minute', ts) AS minute, url, count(*) AS facts, approx_distinct(visitor) AS visitors FROM facts GROUP BY 1, 2"


def ask(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Failure(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def backlog(load, bootstrap, facts, codec):
    """Fills the topic; returns how many facts are acknowledged."""
    command = [load, "steady", "--to", "kafka", "--at", bootstrap, "--rate", "1000000", "--codec", codec]
    steady = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    last = None
    for line in steady.stdout:
        last = json.loads(line)
        if last["sent"] >= facts and steady.stdin:
            steady.stdin.write("stop\n")
            steady.stdin.close()
            steady.stdin = None
    if steady.wait() != 0:
        raise Failure("the producer failed")
    return last["acknowledged"]


def one_run(binary, bootstrap, facts):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "anabranch.toml").write_text(PROJECT.replace("BROKERS", bootstrap).replace("GROUP", folder.name))
        (folder / "posts.sql").write_text(SQL)
        begun = time.monotonic()
        daemon = subprocess.Popen([binary, "--project", folder, "speed"], stderr=subprocess.DEVNULL)
        try:
            landed = None
            while landed is None:
                # Asking costs the daemon time that is measured.
                time.sleep(1)
                done = subprocess.run([binary, "--project", folder, "status", "--format", "json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                topics = json.loads(done.stdout)["topics"] if done.returncode == 0 else []
                if topics and topics[0]["facts"] >= facts:
                    landed = time.monotonic() - begun
                elif time.monotonic() - begun > 600:
                    raise Failure(f"after 10 minutes only {topics} landed")
            counted = json.loads(ask([binary, "--project", folder, "sql", "--format", "json", "-c", "SELECT sum(facts) AS n FROM posts"]))
            if int(counted[0]["n"]) != facts:
                raise Failure(f"the view counts {counted}, not {facts}")
            return landed
        finally:
            daemon.kill()
            daemon.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", "target")) / "release"
    parser.add_argument("--anabranch", default=str(target / "anabranch"))
    parser.add_argument("--load", default=str(target / "load"))
    parser.add_argument("--facts", type=int, default=5_000_000)
    parser.add_argument("--codec", default="none")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        broker = subprocess.Popen([args.load, "broker", "--dir", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            bootstrap = json.loads(broker.stdout.readline())["bootstrap"]
            facts = backlog(args.load, bootstrap, args.facts, args.codec)
            sizes = (f.stat().st_size for f in pathlib.Path(folder).rglob("*.log") if f.parent.name.startswith("facts-"))
            megabytes = sum(sizes) / 1e6
            say(f"{facts:,} facts, {megabytes:,.0f} MB in the broker ({args.codec})")
            seconds = []
            for _ in range(args.runs):
                seconds.append(one_run(args.anabranch, bootstrap, facts))
                say(f"landed after {seconds[-1]:.1f} s")
            median = statistics.median(seconds)
            print(f"median of {args.runs}: {facts / median:,.0f} facts/s, {megabytes / median:,.0f} MB/s, all landed and in the view")
        finally:
            broker.stdin.close()
            broker.wait()


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"kafka_ingest: {failure}")
