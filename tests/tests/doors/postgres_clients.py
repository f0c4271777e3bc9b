"""Asks a daemon over PostgreSQL's protocol with the drivers of Python; ends with 0 where all is right.

    postgres_clients.py PORT

The daemon has the tests' topic `facts` with the ids 0 to 999, and the view `words` over it.
"""

import asyncio
import datetime
import decimal
import sys

import adbc_driver_postgresql.dbapi
import asyncpg
import psycopg
import sqlalchemy

PORT = int(sys.argv[1])


def check(what, found, expected):
    if found != expected:
        raise SystemExit(f"{what}: {found!r}, not {expected!r}")


ALL_TYPES = """SELECT 1::int2 AS a, 2::int4 AS b, 3 AS c, 1.5::real AS d, 2.5::double AS e, 'x' AS f,
    true AS g, to_timestamp('2026-01-02T03:04:05.5Z') AS h, date '1969-12-31' AS i,
    interval '1 day 2 hours' AS j, 12.34::decimal(10, 2) AS k, array[1, null, 3] AS l, X'00ff' AS m,
    NULL AS n, time '10:00:00.5' AS o, (-0.05)::decimal(38, 2) AS p"""

VALUES = (
    1, 2, 3, 1.5, 2.5, "x", True,
    datetime.datetime(2026, 1, 2, 3, 4, 5, 500000, tzinfo=datetime.timezone.utc),
    datetime.date(1969, 12, 31), datetime.timedelta(days=1, hours=2), decimal.Decimal("12.34"),
    [1, None, 3], b"\x00\xff", None, datetime.time(10, 0, 0, 500000), decimal.Decimal("-0.05"),
)


def with_psycopg():
    dsn = f"host=127.0.0.1 port={PORT} user=me dbname=it"
    with psycopg.connect(dsn) as connection:
        for binary in (False, True):
            with connection.cursor(binary=binary) as cursor:
                found = cursor.execute(ALL_TYPES.replace(" AS h", "::timestamptz AS h")).fetchone()
                check(f"psycopg, binary={binary}", found, VALUES)
        ask = lambda sql, values: connection.execute(sql, values).fetchall()
        since = datetime.datetime(2020, 1, 1)
        # More than five times, so that it is prepared by name.
        for nth in range(8):
            check("psycopg, parameters",
                  ask("SELECT count(*) FROM facts WHERE id >= %s AND ts > %s", [nth, since]), [(1000 - nth,)])
        check("psycopg, list", ask("SELECT id FROM facts WHERE id = ANY(%s) ORDER BY id", [[3, 1, 5000]]), [(1,), (3,)])
        check("psycopg, limit", len(ask("SELECT id FROM facts LIMIT %s OFFSET %s", [7, 2])), 7)
        with connection.cursor(name="server") as cursor:
            cursor.itersize = 100
            cursor.execute("SELECT id FROM facts ORDER BY id")
            check("psycopg, cursor of the server", [row[0] for row in cursor], list(range(1000)))
        with connection.cursor().copy("COPY (SELECT id, word FROM facts ORDER BY id LIMIT 2) TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["int8", "text"])
            check("psycopg, copy", [row[0] for row in copy.rows()], [0, 1])
        try:
            connection.execute("SELECT nothing FROM facts")
            raise SystemExit("no error")
        except psycopg.errors.UndefinedColumn:
            connection.rollback()


async def with_asyncpg():
    settings = dict(host="127.0.0.1", port=PORT, user="me", database="it")
    connection = await asyncpg.connect(**settings)
    found = await connection.fetchrow(ALL_TYPES.replace(" AS h", "::timestamptz AS h"))
    check("asyncpg", tuple(found), VALUES)
    found = await connection.fetch("SELECT id FROM facts WHERE id = ANY($1) AND id < $2 ORDER BY id", [1, 2, 9], 5)
    check("asyncpg, parameters", [row["id"] for row in found], [1, 2])
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        found = [row["id"] async for row in connection.cursor("SELECT id FROM facts ORDER BY id", prefetch=90)]
        check("asyncpg, cursor", found, list(range(1000)))
    await connection.close()
    async with asyncpg.create_pool(min_size=1, max_size=2, **settings) as pool:
        for _ in range(3):
            check("asyncpg, pool", await pool.fetchval("SELECT count(*) FROM facts"), 1000)


def with_sqlalchemy():
    engine = sqlalchemy.create_engine(f"postgresql+psycopg://me@127.0.0.1:{PORT}/it")
    inspector = sqlalchemy.inspect(engine)
    tables = set(inspector.get_table_names())
    check("SQLAlchemy, tables", {"facts", "dead_letters"} <= tables, True)
    check("SQLAlchemy, views", inspector.get_view_names(), ["words"])
    columns = {c["name"]: str(c["type"]) for c in inspector.get_columns("facts")}
    check("SQLAlchemy, columns", columns["id"], "BIGINT")
    check("SQLAlchemy, time", columns["ts"].startswith("TIMESTAMP"), True)
    check("SQLAlchemy, key", inspector.get_pk_constraint("words")["constrained_columns"], ["word"])
    with engine.connect() as connection:
        facts = sqlalchemy.table("facts", sqlalchemy.column("id"))
        query = sqlalchemy.select(sqlalchemy.func.count()).where(facts.c.id < 10).select_from(facts)
        check("SQLAlchemy", connection.execute(query).scalar(), 10)


def with_adbc():
    with adbc_driver_postgresql.dbapi.connect(f"postgresql://me@127.0.0.1:{PORT}/it") as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT id, word, ts FROM facts ORDER BY id")
            table = cursor.fetch_arrow_table()
            check("ADBC", table["id"].to_pylist(), list(range(1000)))
            check("ADBC, type", str(table.schema.field("ts").type), "timestamp[us, tz=UTC]")


with_psycopg()
asyncio.run(with_asyncpg())
with_sqlalchemy()
with_adbc()
print("psycopg, asyncpg, SQLAlchemy and ADBC read the same")
