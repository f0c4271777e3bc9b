"""DuckDB's side: the rebuild, the oracle for our answers, and SQL over a Delta table."""

import os

from runs import Failure, Stopwatch, need, quoted, settle
from values import plain, same

# Differences shown for one answer; the first few tell the cause.
SHOWN = 10


def connect(threads, spill=None):
    """A new database in memory, in UTC, spilling to the folder `spill`."""
    connection = need("duckdb").connect(":memory:")
    connection.execute(f"SET threads = {int(threads)}")
    connection.execute("SET TimeZone = 'UTC'")
    if spill is not None:
        connection.execute(f"SET temp_directory = {quoted(spill)}")
    return connection


def version():
    return {"version": need("duckdb").__version__}


def facts_sql(pattern):
    # A folder named `a=b` on the way would otherwise become a column.
    return f"read_parquet({quoted(pattern)}, hive_partitioning = false)"


def ask(connection, sql):
    """Columns and rows of a query; values as Arrow's Python ones."""
    relation = connection.sql(sql)
    if relation is None:
        raise Failure("the statement gives no rows; only queries can be answered")
    # By way of Arrow: DuckDB's own rows want `pytz` for instants.
    table = relation.to_arrow_table()
    columns = [column.to_pylist() for column in table.columns]
    return table.column_names, [list(row) for row in zip(*columns)]


# ---- rebuild ---------------------------------------------------------------


def rebuild_sql(pattern, target, ordered):
    """The GROUP BY of the view, from the facts' files into one Parquet file of finished values."""
    return (
        "COPY (SELECT date_trunc('minute', ts) AS minute, url, count(*) AS page_views, "
        # Uncast it is a HUGEINT, which Parquet has not: the file would hold rounded doubles.
        "sum(engaged_ms)::BIGINT AS engaged_total_ms, avg(engaged_ms) AS engaged_mean_ms, "
        "approx_count_distinct(visitor) AS visitors, max(ts) AS last_at "
        f"FROM {facts_sql(pattern)} GROUP BY 1, 2"
        + (" ORDER BY 1, 2" if ordered else "")
        + f") TO {quoted(target)} (FORMAT parquet, COMPRESSION zstd)"
    )


def rebuild_once(pattern, target, threads, ordered, spill):
    connection = connect(threads, spill)
    # The faster way, and free to take: an ORDER BY is kept all the same.
    connection.execute("SET preserve_insertion_order = false")
    connection.execute("SELECT 1")
    with Stopwatch() as watch:
        connection.execute(rebuild_sql(pattern, target, ordered))
    connection.close()
    return {"seconds": watch.seconds, "cpu_seconds": watch.cpu_seconds, "fsync_seconds": settle(target)}


# ---- check -----------------------------------------------------------------


def check(answers, pattern, threads):
    """Recomputes every answer; returns a list of (name, differences), with an empty list where it holds."""
    connection = connect(threads)
    try:
        connection.execute(f"CREATE VIEW facts AS SELECT * FROM {facts_sql(pattern)}")
    except need("duckdb").Error as error:
        raise Failure(f"duckdb can't read the facts: {error}") from error
    verdicts = []
    for name, answer in answers:
        try:
            columns, rows = ask(connection, answer["sql"])
        except (need("duckdb").Error, Failure) as error:
            verdicts.append((name, [f"duckdb can't run the sql: {error}"]))
            continue
        verdicts.append((name, differences(answer, columns, rows)))
    return verdicts


def differences(answer, columns, rows):
    """What is unlike between our answer and DuckDB's, in sentences; rows are compared in their order."""
    if list(answer["columns"]) != columns:
        return [f"columns: ours {answer['columns']}, duckdb's {columns}"]
    found = []
    if len(answer["rows"]) != len(rows):
        found.append(f"rows: ours {len(answer['rows'])}, duckdb's {len(rows)}")
    for number, (ours, theirs) in enumerate(zip(answer["rows"], rows)):
        if not isinstance(ours, list) or len(ours) != len(columns):
            found.append(f"row {number}: ours is no list of {len(columns)} values: {ours!r}")
            continue
        for column, left, right in zip(columns, ours, theirs):
            if not same(left, right):
                found.append(f"row {number}, `{column}`: ours {left!r}, duckdb's {plain(right)!r}")
    if len(found) > SHOWN:
        found[SHOWN:] = [f"and {len(found) - SHOWN} more"]
    return found


# ---- read-delta ------------------------------------------------------------


def read_delta(folder, sql, name, threads):
    """Runs `sql` over the newest version of a Delta table, read by the `deltalake` package."""
    if not os.path.isdir(os.path.join(folder, "_delta_log")):
        raise Failure(f"`{folder}` is no Delta table: it has no folder `_delta_log`")
    need("pyarrow")
    deltalake = need("deltalake")
    try:
        table = deltalake.DeltaTable(folder)
        dataset = table.to_pyarrow_dataset()
    except Exception as error:
        raise Failure(f"deltalake can't read `{folder}`: {error}") from error
    connection = connect(threads)
    connection.register(name, dataset)
    try:
        columns, rows = ask(connection, sql)
    except need("duckdb").Error as error:
        raise Failure(f"duckdb can't run the sql: {error}") from error
    return {
        "deltalake": deltalake.__version__,
        "delta_version": table.version(),
        "columns": columns,
        "rows": plain(rows),
    }
