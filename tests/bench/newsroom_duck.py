#!/usr/bin/env python3
"""Compares every view of the example `newsroom` with DuckDB's answer over the logs.

    $python tests/bench/newsroom_duck.py CASE.json

`CASE.json` names the `project`, the folder of our `answers` (a Parquet file for
each view), the files of `events` and `crawls` that were sent so far, and
`met`: pairs of offsets, up to which of `events` the facts met `content` up to
which. The last one holds for all that follows.

The logs are read as Delta tables by `deltalake`, and are first compared with
what was sent: each event once, and of each fetch what the step should make.

Rows are paired by the view's keys. Values are equal, but for sketches (five
standard errors, and a hundredth over all rows), and for what is divided (a
billionth).
With `plant`, each view is then compared with wrong answers of ours: a row
less, a row twice, and each value changed, all of which must be noticed.

Prints one line of JSON. Exit codes: 0 compared, whatever came of it; 2 it could
not be done, with the reason on stderr.
"""

import json
import os
import sys

from runs import Failure, need, quoted

ZONES = {
    "gazette.example": "America/New_York",
    "herald.example": "America/New_York",
    "tribune.example": "America/Los_Angeles",
    "observer.example": "Europe/London",
    "courier.example": "Europe/London",
    "chronicle.example": "Europe/Berlin",
    "dispatch.example": "Asia/Kolkata",
    "monitor.example": "Australia/Sydney",
}

READ = (
    "count(*) FILTER (action = 'pageview') AS page_views, count(*) FILTER (action = 'share') AS shares, "
    "count(DISTINCT visitor) AS visitors, {posts}sum(engaged_ms) AS engaged_ms"
)
POSTS = "count(DISTINCT url) AS posts, "


def _read(keys, posts="", source="events"):
    return f"SELECT {keys}, {READ.format(posts=posts)} FROM {source} GROUP BY ALL"


def _local_days():
    """Midnights by zone, joined instead of chosen by a CASE."""
    zones = ", ".join(f"({quoted(site)}, {quoted(zone)})" for site, zone in ZONES.items())
    return (
        "SELECT e.site, timezone(zone, date_trunc('day', timezone(zone, ts))) AS day_began, "
        + READ.format(posts="")
        + f" FROM events e JOIN (VALUES {zones}) z(site, zone) ON z.site = e.site GROUP BY ALL"
    )


SOURCES = """
SELECT hour, site, url, source, count(*) AS page_views, count(DISTINCT visitor) AS visitors FROM (
    SELECT *, date_trunc('hour', ts) AS hour, coalesce((
        SELECT min(name) FROM (VALUES
            ('internal', '[.]example$'), ('facebook', 'facebook[.]com$'), ('twitter', '^(t[.]co|twitter[.]com)$'),
            ('search', '^(www[.]google[.].*|www[.]bing[.]com|duckduckgo[.]com)$')) known(name, host)
        WHERE regexp_matches(regexp_extract(referrer, '^[^/]*//([^/]*)', 1), known.host)
    ), CASE WHEN referrer IS NULL THEN 'direct' ELSE 'other' END) AS source
    FROM events WHERE action = 'pageview'
) GROUP BY ALL
"""

USUAL = """
WITH hours AS (
    SELECT date_trunc('hour', ts) AS hour, site, count(*) AS page_views FROM events WHERE action = 'pageview' GROUP BY ALL
)
SELECT h.hour, h.site, any_value(h.page_views) AS page_views, avg(b.page_views) AS usual,
    1e-9 * avg(b.page_views) AS usual_bound, count(b.page_views) AS weeks
FROM hours h LEFT JOIN hours b ON b.site = h.site AND epoch(h.hour) - epoch(b.hour) IN (7 * 86400, 14 * 86400, 21 * 86400, 28 * 86400)
GROUP BY h.hour, h.site
"""

TOP = """
SELECT day, site, place, url, page_views, visitors FROM (
    SELECT day, site, url, page_views, visitors,
        1 + (SELECT count(*) FROM days o WHERE o.day = d.day AND o.site = d.site
             AND (o.page_views > d.page_views OR (o.page_views = d.page_views AND o.url < d.url))) AS place
    FROM days d
) WHERE place <= 10
"""
DAYS = """
CREATE OR REPLACE TEMP TABLE days AS
SELECT date_trunc('day', ts) AS day, site, url, count(*) AS page_views, count(DISTINCT visitor) AS visitors
FROM events WHERE action = 'pageview' GROUP BY ALL
"""

SUMMARY = """
SELECT site, count(*) FILTER (action = 'pageview') AS page_views, count(*) FILTER (action = 'share') AS shares,
    count(DISTINCT visitor) AS visitors, count(DISTINCT url) AS posts, sum(engaged_ms) AS engaged_ms,
    median(engaged_ms) AS median_engaged_ms, 0.5 AS median_engaged_ms_bound, min(ts) AS first_at, max(ts) AS last_at
FROM events GROUP BY site
"""

# Gaps and islands.
SESSIONS = """
WITH marked AS (
    SELECT *, coalesce(ts - lag(ts) OVER visits > INTERVAL '30 minutes', true) AS begins
    FROM events WINDOW visits AS (PARTITION BY site, visitor ORDER BY ts)
), numbered AS (
    SELECT *, CASE WHEN action = 'pageview' THEN url END AS page,
        count(*) FILTER (begins) OVER (PARTITION BY site, visitor ORDER BY ts RANGE UNBOUNDED PRECEDING) AS number
    FROM marked
)
SELECT site, visitor, min(ts) AS began, max(ts) AS ended, count(*) AS facts,
    first(page ORDER BY ts, page) FILTER (page IS NOT NULL) AS entry,
    last(page ORDER BY ts, page) FILTER (page IS NOT NULL) AS exit,
    min(page) AS least, max(page) AS greatest,
    count(page) AS pages, sum(engaged_ms) AS engaged_ms, min(engaged_ms) AS shortest, max(engaged_ms) AS longest,
    first(engaged_ms ORDER BY ts, engaged_ms) FILTER (engaged_ms IS NOT NULL) AS first_ms,
    last(engaged_ms ORDER BY ts, engaged_ms) FILTER (engaged_ms IS NOT NULL) AS last_ms
FROM numbered GROUP BY site, visitor, number
"""
OUR_SESSIONS = """
SELECT site, visitor, s['start'] AS began, s['end'] AS ended, s.facts AS facts, s.value_1['first'] AS entry,
    s.value_1['last'] AS exit, s.value_1['min'] AS least, s.value_1['max'] AS greatest,
    s.value_2['sum'] AS pages, s.value_3['sum'] AS engaged_ms, s.value_3['min'] AS shortest, s.value_3['max'] AS longest,
    s.value_3['first'] AS first_ms, s.value_3['last'] AS last_ms
FROM (SELECT site, visitor, unnest(sessions) AS s FROM answer)
"""

RETURNING = """
WITH days AS (
    SELECT site, visitor, date_trunc('day', ts) AS day, count(*) AS page_views FROM events WHERE action = 'pageview' GROUP BY ALL
), firsts AS (SELECT site, visitor, min(day) AS first_day FROM days GROUP BY ALL)
SELECT site, day, count(*) FILTER (day = first_day) AS new_visitors, count(*) FILTER (day <> first_day) AS returning_visitors,
    sum(page_views) FILTER (day = first_day) AS of_new, sum(page_views) FILTER (day <> first_day) AS of_returning
FROM days JOIN firsts USING (site, visitor) GROUP BY site, day
"""

AUTHORS = """
SELECT date_trunc('hour', ts) AS hour, author, count(*) FILTER (action = 'pageview') AS page_views,
    count(*) FILTER (action = 'pageview' AND contains(referrer, 'facebook.com/')) AS from_facebook,
    count(*) FILTER (action = 'share') AS shares, count(DISTINCT visitor) AS visitors, sum(engaged_ms) AS engaged_ms
FROM joined GROUP BY ALL
"""

# Of each view: its keys, the columns that are sketches, the SQL over `events`, ours over `answer`.
VIEWS = {
    "post_minutes": ("minute, site, url", "visitors", _read("date_trunc('minute', ts) AS minute, site, url"), None),
    "post_hours": ("hour, site, url", "visitors", _read("date_trunc('hour', ts) AS hour, site, url"), None),
    "post_days": ("day, site, url", "visitors", _read("date_trunc('day', ts) AS day, site, url"), None),
    "site_days": ("site, day_began", "visitors", _local_days(), None),
    "site_hours": ("hour, site", "visitors", _read("date_trunc('hour', ts) AS hour, site", POSTS), None),
    "usual_hours": ("hour, site", "", USUAL, None),
    "site_summary": ("site", "", SUMMARY, None),
    "top_posts": ("day, site, place", "", TOP, None),
    "post_sources": ("hour, site, url, source", "visitors", SOURCES, None),
    "author_hours": ("hour, author", "visitors", AUTHORS, None),
    "section_hours": (
        "hour, section",
        "visitors",
        _read("date_trunc('hour', ts) AS hour, section", POSTS, "joined"),
        None,
    ),
    "visitor_sessions": ("site, visitor, began", "", SESSIONS, OUR_SESSIONS),
    "new_returning": ("site, day", "", RETURNING, None),
}

# What a sketch of 16,384 registers may be off: five standard errors of many values. Of few, some meet in
# a register: of 85 values more than 6 do in one of 100 million sketches. All together are off by less.
SKETCH = "least(2 + 0.05 * {0}, 12 + 0.04 * {0})"
SKETCHES_TOGETHER = 0.01


def main(case):
    with open(case, encoding="utf-8") as stream:
        case = json.load(stream)
    duckdb = need("duckdb")
    connection = duckdb.connect(config={"threads": 2})
    connection.execute("SET TimeZone = 'UTC'")
    report = {
        "duckdb": duckdb.__version__,
        "views": {},
        "facts": 0,
        "versions": 0,
        "different": [],
        "planted": 0,
        "missed": [],
    }
    _read_logs(connection, case, report)
    files = sorted(name[: -len(".parquet")] for name in os.listdir(case["answers"]))
    if files != sorted(VIEWS):
        raise Failure(f"answers of {files}, but what is known are {sorted(VIEWS)}")
    for view in VIEWS:
        try:
            _compare(connection, case, view, report)
        except duckdb.Error as error:
            report["different"].append(f"{view}: {error}")
    return report


def _one(connection, sql):
    return connection.execute(sql).fetchone()[0]


def _read_logs(connection, case, report):
    """Makes the tables `events`, `content` and `joined` of the logs, having compared them with what was sent."""
    deltalake = need("deltalake")
    for topic in ("events", "content"):
        folder = os.path.join(case["project"], "data", "topics", topic, "log")
        uris = deltalake.DeltaTable(folder).file_uris()
        files = ", ".join(quoted(uri.removeprefix("file://")) for uri in uris)
        if not files:
            raise Failure(f"the log of `{topic}` has no files")
        connection.execute(f"CREATE TABLE {topic} AS FROM read_parquet([{files}], union_by_name = true)")
        if _one(connection, f"SELECT count(DISTINCT _partition) FROM {topic}") != 1:
            raise Failure(f"`{topic}` has several partitions")
    report["facts"] = _one(connection, "SELECT count(*) FROM events")
    report["versions"] = _one(connection, "SELECT count(*) FROM content")
    sent = ", ".join(map(quoted, case["events"]))
    fields = "event_id, ts, action, site, url, referrer, visitor, engaged_ms"
    types = {name: "VARCHAR" for name in fields.split(", ")} | {"ts": "TIMESTAMPTZ", "engaged_ms": "BIGINT"}
    _same(
        connection,
        report,
        "the log of events",
        f"SELECT {fields} FROM events",
        f"SELECT DISTINCT {fields} FROM read_json([{sent}], format = 'newline_delimited', columns = {types})",
    )
    fetched = ", ".join(map(quoted, case["crawls"]))
    types = {"fetched_at": "TIMESTAMPTZ", "url": "VARCHAR", "status": "INTEGER", "page": "VARCHAR"}
    said = {
        "title": "$.headline",
        "author": "$.author.name",
        "section": "$.articleSection",
        "published": "$.datePublished",
    }
    said = ", ".join(f"json_extract_string(said, '{path}') AS {name}" for name, path in said.items())
    _same(
        connection,
        report,
        "the log of content",
        "SELECT version_ts, url, title, author, section, published, gone FROM content",
        f"""SELECT fetched_at, url, title, author, section, CAST(published AS TIMESTAMPTZ), status = 410 FROM (
            SELECT fetched_at, url, status, json_extract_string(said, '$."@type"') AS kind, {said} FROM (
                SELECT *, CASE WHEN json_valid(page) THEN page::JSON END AS said
                FROM read_json([{fetched}], format = 'newline_delimited', columns = {types})))
        WHERE status = 410 OR (status = 200 AND kind = 'NewsArticle')""",
    )
    cases = " ".join(f"WHEN _offset < {int(end)} THEN {int(met)}" for end, met in case["met"][:-1])
    last = int(case["met"][-1][1])
    met = f"CASE {cases} ELSE {last} END" if cases else str(last)
    heads = sorted({int(met) for _, met in case["met"]})
    connection.execute(
        f"""CREATE TABLE posts AS SELECT met, url, author, section FROM (
            SELECT h.met, c.*, row_number() OVER (
                PARTITION BY h.met, url ORDER BY version_ts DESC, _ingested_at DESC, _offset DESC) AS age
            FROM content c JOIN (SELECT unnest({heads}) AS met) h ON c._offset < h.met
        ) WHERE age = 1 AND NOT coalesce(gone, false)"""
    )
    connection.execute(
        f"""CREATE TABLE joined AS SELECT e.*, p.author, p.section FROM (SELECT *, {met} AS met FROM events) e
        LEFT JOIN posts p ON p.met = e.met AND p.url = e.url"""
    )
    connection.execute(DAYS)


def _same(connection, report, what, ours, theirs):
    """Compares two multisets of rows."""
    for kind, left, right in (("only there", ours, theirs), ("missing", theirs, ours)):
        sql = f"SELECT count(*) OVER (), CAST(r AS VARCHAR) FROM (({left}) EXCEPT ALL ({right})) r LIMIT 2"
        rows = connection.execute(sql).fetchall()
        if rows:
            report["different"].append(f"{what}: {rows[0][0]} {kind}, such as {[row[1] for row in rows]}")


def _compare(connection, case, view, report):
    keys, sketches, sql, ours = VIEWS[view]
    keys = keys.split(", ")
    path = os.path.join(case["answers"], f"{view}.parquet")
    connection.execute(f"CREATE OR REPLACE TEMP VIEW answer AS FROM read_parquet({quoted(path)})")
    connection.execute(f"CREATE OR REPLACE TEMP TABLE ours AS {ours or 'FROM answer'}")
    bounds = "".join(f", {SKETCH.format(s)} AS {s}_bound" for s in sketches.split(", ") if s)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE theirs AS SELECT *{bounds} FROM ({sql})")
    kinds = {row[0]: row[1] for row in connection.execute("DESCRIBE ours").fetchall()}
    known = [row[0] for row in connection.execute("DESCRIBE theirs").fetchall()]
    if list(kinds) != [name for name in known if not name.endswith("_bound")]:
        report["different"].append(f"{view}: columns {list(kinds)} of {known}")
        return
    rows, difference = _difference(connection, keys, kinds, known, "ours")
    report["views"][view] = rows
    for name in filter(None, sketches.split(", ")):
        total = [_one(connection, f"SELECT CAST(sum({name}) AS DOUBLE) FROM {table}") for table in ("ours", "theirs")]
        if abs(total[0] - total[1]) > SKETCHES_TOGETHER * total[1]:
            report["different"].append(f"{view}: `{name}` over all rows is {total[0]} instead of {total[1]}")
    if difference:
        report["different"].append(f"{view}: {difference}")
    if not case.get("plant"):
        return
    middle = rows // 2
    connection.execute("CREATE OR REPLACE TEMP TABLE numbered AS SELECT *, row_number() OVER () - 1 AS _n FROM ours")
    wrong = {
        "a row less": f"SELECT * EXCLUDE (_n) FROM numbered WHERE _n <> {middle}",
        "a row twice": f"SELECT * EXCLUDE (_n) FROM numbered UNION ALL SELECT * EXCLUDE (_n) FROM numbered WHERE _n = {middle}",
    }
    for name, kind in kinds.items():
        if kind.startswith("TIMESTAMP"):
            other = f"{name} + INTERVAL 1 microsecond"
        elif kind == "VARCHAR":
            other = f"coalesce({name}, '') || 'x'"
        else:
            # Ours may be as far to the other side.
            near = f"3 * CEIL({SKETCH.format(name)}) + 1" if name in sketches.split(", ") else "1"
            other = f"CAST(coalesce({name} + {near}, 0) AS {kind})"
        wrong[f"another `{name}`"] = (
            f"SELECT * EXCLUDE (_n) REPLACE (CASE WHEN _n = {middle} THEN {other} ELSE {name} END AS {name}) FROM numbered"
        )
    for what, sql in wrong.items():
        connection.execute(f"CREATE OR REPLACE TEMP TABLE wrong AS {sql}")
        report["planted"] += 1
        if not _difference(connection, keys, kinds, known, "wrong")[1]:
            report["missed"].append(f"{view}: {what}")


def _difference(connection, keys, columns, known, table):
    """How many rows `table` has, and what differs between it and `theirs`; empty where nothing does."""
    rows = _one(connection, f"SELECT count(*) FROM {table}")
    for name in (table, "theirs"):
        doubled = _one(connection, f"SELECT count(*) FROM (SELECT 1 FROM {name} GROUP BY {', '.join(keys)} HAVING count(*) > 1)")
        if doubled:
            return rows, f"{doubled} keys of {name} are there more than once"
    same = ["o._o IS NOT NULL", "t._t IS NOT NULL"]
    for name in columns:
        if f"{name}_bound" in known:
            near = f"abs(o.{name} - t.{name}) <= t.{name}_bound"
            same.append(f"((o.{name} IS NULL AND t.{name} IS NULL) OR coalesce({near}, false))")
        else:
            same.append(f"o.{name} IS NOT DISTINCT FROM t.{name}")
    on = " AND ".join(f"o.{key} IS NOT DISTINCT FROM t.{key}" for key in keys)
    found = connection.execute(
        f"""SELECT count(*) OVER (), CAST(o AS VARCHAR), CAST(t AS VARCHAR) FROM
        (SELECT *, 1 AS _o FROM {table}) o FULL JOIN (SELECT *, 1 AS _t FROM theirs) t ON {on}
        WHERE NOT ({" AND ".join(same)}) LIMIT 3"""
    ).fetchall()
    if not found:
        return rows, ""
    return rows, f"{found[0][0]} of {rows} rows, such as " + "; ".join(f"ours {o}, theirs {t}" for _, o, t in found)


if __name__ == "__main__":
    try:
        if len(sys.argv) != 2 or not os.path.isfile(sys.argv[1]):
            raise Failure("usage: newsroom_duck.py CASE.json")
        print(json.dumps(main(sys.argv[1])))
    except Failure as failure:
        print(f"newsroom_duck.py: {failure}", file=sys.stderr)
        sys.exit(2)
