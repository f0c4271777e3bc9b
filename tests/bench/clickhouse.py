"""ClickHouse's side of the benchmarks, embedded through `chdb`.

Each `…_once` function is one run and is called in a process of its own (see
`runs.in_child`); times leave out starting the engine.
"""

import itertools
import json
import time

from runs import Failure, Stopwatch, figures, need, percentile, quoted, say, settle

# The topic's schema, in which `ts` and `url` are `not null`. Left to guess from
# the files, ClickHouse takes them for `Nullable` and groups more slowly by them.
FACTS = "ts DateTime64(6, 'UTC'), url String, visitor Nullable(String), engaged_ms Nullable(Int64)"

# Distinct counts that a user may choose from; the last is exact.
DISTINCT = ["uniqHLL12", "uniq", "uniqCombined", "uniqExact"]


class Engine:
    """A session that raises `Failure` with ClickHouse's own message; in memory without a `folder`."""

    def __init__(self, threads, folder=None):
        need("chdb")
        from chdb import session

        self._session = session.Session(folder)
        # `async_insert` would collect blocks on a timer; off, an insert returns
        # once its part is written, which is what gets timed.
        self.run(f"SET max_threads = {int(threads)}, async_insert = 0, use_query_condition_cache = 0")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._session.close()

    def run(self, sql, settings=""):
        """Runs one statement, returns its rows as lists of JSON values."""
        try:
            answer = self._session.query(sql + settings, "JSONCompactEachRow").bytes()
        except Exception as error:
            raise Failure(f"clickhouse refused `{sql[:200]}`: {error}") from error
        return [json.loads(line) for line in (answer or b"").splitlines()]

    def value(self, sql):
        return self.run(sql)[0][0]

    def insert(self, table, block):
        """Inserts one block of NDJSON bytes, visible on return."""
        try:
            # At 50,000 rows about twice as fast as the same bytes in the statement's text.
            with self._session._conn.send_insert(f"INSERT INTO {table}", "JSONEachRow") as stream:
                stream.append(block)
                stream.finish()
        except Exception as error:
            raise Failure(f"clickhouse refused a block of facts: {error}") from error


def version():
    """For the report, from a process of its own like every run."""
    chdb = need("chdb")
    with Engine(1) as engine:
        return {"version": f"{engine.value('SELECT version()')} (chdb {chdb.__version__})"}


# ---- rebuild ---------------------------------------------------------------


def rebuild_sql(pattern, target, ordered, distinct):
    """The GROUP BY of the view, from the facts' files into one Parquet file of finished values."""
    return (
        f"INSERT INTO FUNCTION file({quoted(target)}, Parquet) "
        "SELECT date_trunc('minute', ts) AS minute, url, count() AS page_views, "
        "sum(engaged_ms) AS engaged_total_ms, avg(engaged_ms) AS engaged_mean_ms, "
        f"{distinct}(visitor) AS visitors, max(ts) AS last_at "
        f"FROM file({quoted(pattern)}, Parquet, {quoted(FACTS)}) GROUP BY minute, url"
        + (" ORDER BY minute, url" if ordered else "")
        + " SETTINGS output_format_parquet_compression_method = 'zstd'"
    )


def rebuild_once(pattern, target, threads, ordered, distinct):
    with Engine(threads) as engine:
        engine.run("SELECT 1")
        with Stopwatch() as watch:
            engine.run(rebuild_sql(pattern, target, ordered, distinct))
    return {"seconds": watch.seconds, "cpu_seconds": watch.cpu_seconds, "fsync_seconds": settle(target)}


# ---- ingest ----------------------------------------------------------------


def _create_ingest_tables(engine, distinct, fsync):
    durable = " SETTINGS fsync_after_insert = 1, fsync_part_directory = 1" if fsync else ""
    engine.run(
        "CREATE TABLE facts (ts DateTime64(6, 'UTC'), url String, author Nullable(String), "
        "section Nullable(String), referrer Nullable(String), visitor Nullable(String), "
        f"action Nullable(String), engaged_ms Nullable(Int64)) ENGINE = MergeTree ORDER BY ts{durable}"
    )
    engine.run(
        "CREATE TABLE post_minutes (minute DateTime('UTC'), url String, "
        "page_views AggregateFunction(count), engaged_total_ms AggregateFunction(sum, Nullable(Int64)), "
        "engaged_mean_ms AggregateFunction(avg, Nullable(Int64)), "
        f"visitors AggregateFunction({distinct}, Nullable(String)), "
        "last_at AggregateFunction(max, DateTime64(6, 'UTC'))) "
        f"ENGINE = AggregatingMergeTree ORDER BY (minute, url){durable}"
    )
    engine.run(
        "CREATE MATERIALIZED VIEW into_post_minutes TO post_minutes AS "
        "SELECT toStartOfMinute(ts) AS minute, url, countState() AS page_views, "
        "sumState(engaged_ms) AS engaged_total_ms, avgState(engaged_ms) AS engaged_mean_ms, "
        f"{distinct}State(visitor) AS visitors, maxState(ts) AS last_at FROM facts GROUP BY minute, url"
    )


def ingest_once(file, folder, threads, block_rows, limit_rows, distinct, fsync):
    """Inserts the file in blocks. Only the inserts are timed, not the cutting of the file into blocks."""
    took, rows, size = [], 0, 0
    with Engine(threads, folder) as engine, open(file, "rb") as stream:
        _create_ingest_tables(engine, distinct, fsync)
        lines = itertools.islice((line for line in stream if not line.isspace()), limit_rows)
        while block := list(itertools.islice(lines, block_rows)):
            rows += len(block)
            block = b"".join(block)
            size += len(block)
            with Stopwatch() as watch:
                engine.insert("facts", block)
            took.append(watch.seconds)
        if not rows:
            raise Failure(f"`{file}` holds no facts")
        stored = int(engine.value("SELECT count() FROM facts"))
        counted = int(engine.value("SELECT countMerge(page_views) FROM post_minutes"))
        if (stored, counted) != (rows, rows):
            raise Failure(f"{rows} facts were sent, but the table holds {stored} and the view counts {counted}")
        return {
            "rows": rows,
            "bytes": size,
            "seconds": sum(took),
            "block_seconds_median": percentile(took, 0.5),
            "block_seconds_p99": percentile(took, 0.99),
            # Above 1,000 parts ClickHouse slows inserts down on purpose.
            "parts": int(engine.value("SELECT count() FROM system.parts WHERE active AND database = currentDatabase()")),
            "delayed_inserts": int(engine.value("SELECT sum(value) FROM system.events WHERE event = 'DelayedInserts'")),
        }


# ---- top10 -----------------------------------------------------------------


def _fill(engine, pattern, distinct):
    """States by way of a materialized view: one row for each key and inserted block, as ingest would leave them."""
    engine.run(f"CREATE TABLE facts ({FACTS}) ENGINE = Null")
    engine.run(
        "CREATE TABLE post_minutes (minute DateTime('UTC'), url String, page_views AggregateFunction(count), "
        f"visitors AggregateFunction({distinct}, Nullable(String))) ENGINE = AggregatingMergeTree ORDER BY (minute, url)"
    )
    engine.run(
        "CREATE MATERIALIZED VIEW into_post_minutes TO post_minutes AS SELECT toStartOfMinute(ts) AS minute, url, "
        f"countState() AS page_views, {distinct}State(visitor) AS visitors FROM facts GROUP BY minute, url"
    )
    with Stopwatch() as watch:
        engine.run(f"INSERT INTO facts SELECT * FROM file({quoted(pattern)}, Parquet, {quoted(FACTS)})")
    return watch.seconds


def _top10_sql(distinct, start, end):
    return (
        f"SELECT url, countMerge(page_views) AS views, {distinct}Merge(visitors) AS uniques FROM post_minutes "
        f"WHERE minute >= toDateTime({start}, 'UTC') AND minute < toDateTime({end}, 'UTC') "
        "GROUP BY url ORDER BY views DESC, url LIMIT 10"
    )


def _time_top10(engine, sql, runs):
    answer = engine.run(sql)
    took = []
    for _ in range(runs):
        with Stopwatch() as watch:
            engine.run(sql)
        took.append(watch.seconds)
    parts, rows, size = engine.run(
        "SELECT count(), sum(rows), sum(bytes_on_disk) FROM system.parts "
        "WHERE active AND table = 'post_minutes' AND database = currentDatabase()"
    )[0]
    # ClickHouse writes 64-bit integers as strings in some settings.
    answer = [[url, int(views), int(uniques)] for url, views, uniques in answer]
    state = {"parts": int(parts), "states": int(rows), "bytes": int(size)}
    return answer, {"seconds": figures(took, p99=True), **state}


def top10_once(pattern, folder, threads, runs, end, hours, distinct):
    """Fills the table once, then times the query on the parts as inserted and after `OPTIMIZE … FINAL`."""
    with Engine(threads, folder) as engine:
        fill_seconds = _fill(engine, pattern, distinct)
        # Merges in the background would take a core and change what is read.
        engine.run("SYSTEM STOP MERGES")
        if end is None:
            end = int(engine.value("SELECT toUnixTimestamp(max(minute)) + 60 FROM post_minutes"))
        start = end - hours * 3600
        sql = _top10_sql(distinct, start, end)
        say("timing the query on the parts as inserted")
        answer, inserted = _time_top10(engine, sql, runs)
        if not answer:
            raise Failure(f"no facts between {_iso(start)} and {_iso(end)}; choose another `--end`")
        engine.run("SYSTEM START MERGES")
        with Stopwatch() as watch:
            engine.run("OPTIMIZE TABLE post_minutes FINAL")
        say("timing the query after OPTIMIZE FINAL")
        again, optimized = _time_top10(engine, sql, runs)
        if [row[:2] for row in again] != [row[:2] for row in answer]:
            raise Failure("the answer changed with OPTIMIZE FINAL; the figures are worthless")
        facts = int(engine.value("SELECT countMerge(page_views) FROM post_minutes"))
    return {
        "facts": facts,
        "start": _iso(start),
        "end": _iso(end),
        "fill_seconds": round(fill_seconds, 6),
        "optimize_seconds": round(watch.seconds, 6),
        "inserted": inserted,
        "optimized": optimized,
        "columns": ["url", "page_views", "visitors"],
        "rows": again,
    }


def _iso(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
