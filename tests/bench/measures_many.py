"""What many topics and views cost that hold little: starting a daemon, its threads and descriptors, and the
commands that go over all of them or need one."""

import json
import os
import time
import urllib.request

from project import daemon
from runs import say
from table import Row

TOPIC = """\
[topics.topic_{n}]
event_time = "ts"
[topics.topic_{n}.fields]
ts = "timestamp not null"
word = "varchar"
"""
SQL = "SELECT word, count(*) AS facts FROM topic_{n} GROUP BY word\n"


def many(bench):
    """`--many-topics` topics and `--many-views` views over them, a few facts in each."""
    topics, views = bench.options.many_topics, bench.options.many_views
    starts, threads, descriptors, refreshes, maintains, statuses = [], [], [], [], [], []
    for _ in bench.runs():
        with bench.project() as project:
            _declare(project, topics, views)
            with daemon(project, "warn") as running:
                for n in range(topics):
                    _send(running.url, n)
                running.await_landed()
            project.command("batch", "refresh")
            begun = time.perf_counter()
            with daemon(project, "warn") as running:
                starts.append(time.perf_counter() - begun)
                folder = f"/proc/{running.process.pid}"
                threads.append(len(os.listdir(f"{folder}/task")))
                descriptors.append(len(os.listdir(f"{folder}/fd")))
                statuses.append(_took(project, "status"))
            # The last of all has nothing new.
            refreshes.append(_took(project, "batch", "refresh", f"view_{views - 1}"))
            maintains.append(_took(project, "batch", "maintain"))
    note = f"{topics} topics, {views} views"
    return [
        Row("many", "daemon, until it answers", "s", starts, note=note),
        Row("many", "its threads", "", threads),
        Row("many", "its descriptors", "", descriptors),
        Row("many", "status", "s", statuses),
        Row("many", "refresh of one view without new facts", "s", refreshes),
        Row("many", "maintain", "s", maintains),
    ]


def _declare(project, topics, views):
    lines = ['[daemon]\nhttp = "127.0.0.1:0"\n']
    lines += [TOPIC.format(n=n) for n in range(topics)]
    for n in range(views):
        lines.append(f'[views.view_{n}]\nsql = "view_{n}.sql"\n')
        with open(os.path.join(project.folder, f"view_{n}.sql"), "w", encoding="utf-8") as stream:
            stream.write(SQL.format(n=n % topics))
    with open(os.path.join(project.folder, "anabranch.toml"), "w", encoding="utf-8") as stream:
        stream.writelines(lines)


def _send(url, n):
    facts = [{"ts": "2026-01-01T00:00:00Z", "word": f"w{i}"} for i in range(10)]
    body = "".join(f"{json.dumps(fact)}\n" for fact in facts).encode()
    with urllib.request.urlopen(f"{url}/topics/topic_{n}", data=body, timeout=60) as answer:
        answer.read()


def _took(project, *arguments):
    begun = time.perf_counter()
    project.command(*arguments)
    took = time.perf_counter() - begun
    say(f"  {' '.join(arguments)}: {took:.2f} s")
    return took
