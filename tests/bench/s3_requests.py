#!/usr/bin/env python3
"""Counts the requests that a million facts cost in an S3 bucket.

    cargo build --release --workspace
    python3 tests/bench/s3_requests.py
    python3 tests/bench/s3_requests.py --facts 1000000 --rate 20000

Facts go through a daemon with default settings (it lands every 5 s or 500,000 facts, and looks for
news twice a second) into the tests' own S3 server, which counts what it is asked, repetitions and
all. `--rate` paces the facts; without it they come as fast as they can. Then one refresh, and the
top 10 of the view ten times.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request

from project import SETTINGS, VIEW_SQL, metric_of
from runs import Failure, say

KEYS = {"AWS_ACCESS_KEY_ID": "anabranch", "AWS_SECRET_ACCESS_KEY": "anabranch-secret"}
TOP10 = "SELECT url, sum(page_views) AS n FROM post_minutes GROUP BY url ORDER BY n DESC LIMIT 10"


def fetch(url):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **KEYS})
    if done.returncode != 0:
        raise Failure(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


class Requests:
    """What the server was asked, in sections."""

    def __init__(self, endpoint):
        self.url = f"{endpoint}/-/requests"
        self.before = self._now()
        self.rows = []

    def _now(self):
        return json.loads(fetch(self.url))

    def section(self, name):
        now = self._now()
        row = {kind: now[kind] - self.before[kind] for kind in now}
        self.before = now
        self.rows.append((name, row))
        return row


def await_daemon(process):
    """The daemon's URL: it logs where it listens."""
    for line in process.stderr:
        if "ready" in line and "http=" in line:
            return "http://" + line.split("http=")[1].split()[0]
    raise Failure("the daemon ended")


def measure(options, folder):
    tool = lambda name: os.path.join(options.binaries, name)  # noqa: E731
    server = subprocess.Popen([tool("s3d"), os.path.join(folder, "buckets")], stdout=subprocess.PIPE, text=True)
    running = None
    try:
        endpoint = server.stdout.readline().split()[0]
        project = os.path.join(folder, "project")
        os.makedirs(project)
        storage = f'[storage]\nurl = "s3://tests/figures"\nendpoint = "{endpoint}"\n'
        with open(os.path.join(project, "anabranch.toml"), "w", encoding="utf-8") as stream:
            stream.write(storage + SETTINGS.format(daemon="", batch_memory="1GB"))
        with open(os.path.join(project, "post_minutes.sql"), "w", encoding="utf-8") as stream:
            stream.write(VIEW_SQL)
        anabranch = [tool("anabranch"), "--project", project]
        requests = Requests(endpoint)
        running = subprocess.Popen(
            [*anabranch, "speed"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env={**os.environ, **KEYS}
        )
        url = await_daemon(running)
        requests.section("start")
        time.sleep(options.idle)
        requests.section(f"{options.idle} s idle")
        begun = time.perf_counter()
        rate = ["--rate", str(options.rate)] if options.rate else []
        run([*anabranch, "generate", "pageviews", "--facts", str(options.facts), "--into-daemon", *rate])
        while metric_of(fetch(f"{url}/metrics"), "anabranch_unlanded_facts"):
            time.sleep(0.05)
        took = time.perf_counter() - begun
        requests.section(f"{options.facts:,} facts in {took:.0f} s")
        run([*anabranch, "batch", "refresh"])
        requests.section("refresh")
        for _ in range(10):
            request = urllib.request.Request(f"{url}/sql", data=TOP10.encode(), headers={"accept": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                answer.read()
        requests.section("10 queries")
        return requests.rows
    finally:
        for process in (running, server):
            if process:
                process.terminate()
                process.wait()


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(here, "..", "..", "target")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", default=os.path.join(target, "release"), help="where `anabranch` and `s3d` are")
    parser.add_argument("--facts", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, help="facts a second")
    parser.add_argument("--idle", type=int, default=10, help="seconds in which nothing happens (default 10)")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(options, folder)
    except Failure as failure:
        say(f"s3_requests.py: {failure}")
        return 2
    kinds = list(rows[0][1])
    print(f"{'':28}" + "".join(f"{kind:>15}" for kind in kinds))
    for name, row in rows:
        print(f"{name:28}" + "".join(f"{row[kind]:>15,}" for kind in kinds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
