"""Asks a daemon over Arrow Flight SQL with ADBC's driver; ends with 0 where all is right.

    flight_clients.py URI [TOKEN [CERTIFICATE]]

The daemon has the tests' topic `facts` with the ids 0 to 999, and the view `words` over it.
"""

import datetime
import sys

import adbc_driver_flightsql
import adbc_driver_flightsql.dbapi
import pandas
import polars
import pyarrow

URI, REST = sys.argv[1], sys.argv[2:]


def check(what, found, expected):
    if found != expected:
        raise SystemExit(f"{what}: {found!r}, not {expected!r}")


def connect(**more):
    options = dict(more)
    if REST:
        # A user with the token as password, as who knows nothing of bearers comes.
        options.update(username="root", password=REST[0])
    if len(REST) > 1:
        with open(REST[1]) as file:
            options[adbc_driver_flightsql.DatabaseOptions.TLS_ROOT_CERTS.value] = file.read()
    return adbc_driver_flightsql.dbapi.connect(URI, db_kwargs=options)


def asks(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*), min(word) FROM facts WHERE id < 1000")
        check("count", cursor.fetchone()[0], 1000)
        cursor.execute("SELECT id FROM facts WHERE id > $1 AND word <> $2 AND id < 1000 ORDER BY id LIMIT 3", parameters=(7, "nothing"))
        check("parameters", cursor.fetchall(), [(8,), (9,), (10,)])
        cursor.execute("SELECT to_timestamp('2026-01-02T03:04:05Z') AS a, NULL AS b, [1, NULL] AS c, X'00ff' AS d, 'ü' AS e")
        row = cursor.fetchone()
        check("types", row[1:], (None, [1, None], b"\x00\xff", "ü"))
        cursor.execute("SELECT word, facts FROM words ORDER BY word")
        table = cursor.fetch_arrow_table()
        check("arrow", table.column_names, ["word", "facts"])
    frame = pandas.read_sql("SELECT word, sum(facts) AS n FROM words GROUP BY word ORDER BY word", connection)
    check("pandas", list(frame.columns), ["word", "n"])
    frame = polars.read_database("SELECT id FROM facts WHERE id < 1000 ORDER BY id", connection)
    check("polars", frame["id"].to_list(), list(range(1000)))


def describes(connection):
    info = connection.adbc_get_info()
    check("vendor", info["vendor_name"], "Anabranch")
    objects = connection.adbc_get_objects(depth="all").read_all().to_pylist()
    check("catalogues", [o["catalog_name"] for o in objects], ["anabranch"])
    tables = {t["table_name"]: t for s in objects[0]["catalog_db_schemas"] for t in s["db_schema_tables"]}
    check("tables", {"facts", "words"} <= set(tables), True)
    columns = [c["column_name"] for c in tables["words"]["table_columns"]]
    check("columns", columns[0], "word")
    check("types", connection.adbc_get_table_types(), ["TABLE", "VIEW"])
    schema = connection.adbc_get_table_schema("facts", db_schema_filter="public")
    check("schema", schema.field("id").type, pyarrow.int64())


def ingests(connection):
    rows = 200_000
    ts = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    table = pyarrow.table({
        "ts": pyarrow.array([ts] * rows, pyarrow.timestamp("us", "UTC")),
        "id": pyarrow.array(range(10_000, 10_000 + rows), pyarrow.int64()),
        "word": pyarrow.array([f"w{n % 5}" for n in range(rows)]).dictionary_encode(),
    })
    with connection.cursor() as cursor:
        check("ingest", cursor.adbc_ingest("facts", table, mode="append"), rows)
        cursor.execute("SELECT count(*) FROM facts WHERE id >= 10000")
        check("ingested", cursor.fetchone()[0], rows)
        for wrong in ("create", "replace"):
            try:
                cursor.adbc_ingest("facts", table, mode=wrong)
            except Exception as e:
                check(wrong, "append" in str(e), True)
            else:
                raise SystemExit(f"{wrong} is no error")


with connect() as connection:
    asks(connection)
    describes(connection)
    ingests(connection)

options = adbc_driver_flightsql.DatabaseOptions
with connect(**{options.WITH_COOKIE_MIDDLEWARE.value: "true"}) as connection:
    asks(connection)

with connect(**{options.RPC_CALL_HEADER_PREFIX.value + "anabranch-read": "batch"}) as connection:
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(facts) FROM words")
        check("read = batch", cursor.fetchone(), (None,))
