#!/usr/bin/env python3
"""Compares merged answers with DuckDB's over the same facts.

    $python tests/bench/law_duck.py DIR

Each folder below DIR is a case: `facts.parquet`, the view in DuckDB's dialect
over the table `facts` in `view.sql`, our answer in `answer.parquet`, and often
`planted.parquet`, a wrong answer whose difference must be noticed.

Answers are multisets of rows. Values are equal, with one NaN, two zeroes, and
NULL equal to itself alone; but a column `NAME_bound` of DuckDB's answer says
how far `NAME` may be from ours: 1e-10 of the sum of the sizes of the terms for
floating point, the error of a sketch, the last digit of a decimal average.

Prints one line of JSON. Exit codes: 0 compared, whatever came of it; 2 it could
not be done, with the reason on stderr.
"""

import collections
import json
import math
import os
import sys

from runs import Failure, need

BOUND = "_bound"


def main(folder):
    duckdb = need("duckdb")
    connection = duckdb.connect(config={"threads": 2})
    connection.execute("SET TimeZone = 'UTC'")
    report = {
        "duckdb": duckdb.__version__,
        "cases": 0,
        "rows": 0,
        "facts": 0,
        "within_bounds": 0,
        "planted": 0,
        "different": [],
        "missed": [],
    }
    for name in sorted(os.listdir(folder)):
        try:
            _case(connection, os.path.join(folder, name), name, report)
        except duckdb.Error as error:
            report["different"].append({"case": name, "error": str(error)})
        report["cases"] += 1
    return report


def _case(connection, case, name, report):
    def path(file):
        return os.path.join(case, file)

    connection.execute(f"CREATE OR REPLACE VIEW facts AS FROM read_parquet('{path('facts.parquet')}')")
    report["facts"] += connection.execute("SELECT count(*) FROM facts").fetchone()[0]
    with open(path("view.sql"), encoding="utf-8") as stream:
        sql = stream.read()
    theirs = Answer(connection, sql)
    ours = Answer(connection, f"FROM read_parquet('{path('answer.parquet')}')")
    report["rows"] += len(ours.rows)
    report["within_bounds"] += len(ours.rows) * len(theirs.bounded)
    difference = theirs.difference(ours)
    if difference:
        report["different"].append({"case": name, "sql": sql, "difference": difference})
    if os.path.exists(path("planted.parquet")):
        report["planted"] += 1
        wrong = Answer(connection, f"FROM read_parquet('{path('planted.parquet')}')")
        if not theirs.difference(wrong):
            report["missed"].append({"case": name, "sql": sql})


class Answer:
    """The rows of a query; times as microseconds since 1970."""

    def __init__(self, connection, sql):
        described = connection.execute(f"DESCRIBE ({sql})").fetchall()
        self.names = [row[0] for row in described]
        columns = [
            f'epoch_us("{row[0]}")' if row[1].startswith("TIMESTAMP") else f'"{row[0]}"' for row in described
        ]
        self.rows = connection.execute(f"SELECT {', '.join(columns)} FROM ({sql})").fetchall()
        self.bounded = [n[: -len(BOUND)] for n in self.names if n.endswith(BOUND)]

    def difference(self, ours):
        """What differs between DuckDB's answer, which has the bounds, and ours; empty where nothing does."""
        if ours.names != [n for n in self.names if not n.endswith(BOUND)]:
            return f"columns {ours.names} of {self.names}"
        exact = [n for n in ours.names if n not in self.bounded]
        waiting = collections.defaultdict(list)
        for row in self.rows:
            values = dict(zip(self.names, row))
            near = [(values[n], values[n + BOUND]) for n in self.bounded]
            waiting[tuple(_exact(values[n]) for n in exact)].append(near)
        missing = []
        for row in ours.rows:
            values = dict(zip(ours.names, row))
            candidates = waiting[tuple(_exact(values[n]) for n in exact)]
            near = [values[n] for n in self.bounded]
            found = next((i for i, c in enumerate(candidates) if _all_near(near, c)), None)
            if found is None:
                missing.append(f"only ours: {values}")
            else:
                candidates.pop(found)
        more = [f"only DuckDB's: {key} {near}" for key, rows in waiting.items() for near in rows]
        return "; ".join((missing + more)[:6])


def _exact(value):
    """A value that is equal to what must be equal to it, and to nothing else."""
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else (value, math.copysign(1, value))
    if isinstance(value, list):
        return tuple(_exact(v) for v in value)
    return value


def _all_near(values, candidates):
    return all(_near(value, other, bound) for value, (other, bound) in zip(values, candidates))


def _near(value, other, bound):
    if value is None or other is None:
        return value is None and other is None
    value, other = float(value), float(other)
    if math.isnan(value) or math.isnan(other):
        return math.isnan(value) and math.isnan(other)
    return abs(value - other) <= float(bound or 0)


if __name__ == "__main__":
    try:
        if len(sys.argv) != 2 or not os.path.isdir(sys.argv[1]):
            raise Failure("usage: law_duck.py DIR, the folder of the cases")
        print(json.dumps(main(sys.argv[1])))
    except Failure as failure:
        print(f"law_duck.py: {failure}", file=sys.stderr)
        sys.exit(2)
