"""A daemon's client: answers as Arrow, facts from frames, and what changes in a view.

    import anabranch

    facts = anabranch.connect("http://127.0.0.1:8787")
    facts.sql("SELECT url, sum(page_views) AS n FROM post_minutes WHERE minute > $1 GROUP BY url", [since]).pandas()
    taken = facts.ingest("pageviews", frame)
    facts.sql("SELECT count(*) FROM pageviews", at_least=taken.token).rows()
    for change in facts.follow("post_minutes"):
        print(change["op"], change.get("new"))

It speaks HTTP and needs pyarrow alone.
"""

import collections
import datetime
import decimal
import http.client
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

import pyarrow as pa

__all__ = ["connect", "Client", "Answer", "Taken", "Error"]

ARROW = "application/vnd.apache.arrow.stream"

#: How often a request is sent that fails on its way, and how long it is waited before.
TRIES, WAIT_SECONDS = 5, 0.5

#: What became of facts: how many are new, how many were there already by the topic's dedup, how many
#: became dead letters, and the token for `at_least`.
Taken = collections.namedtuple("Taken", "facts duplicates dead_letters token")


class Error(Exception):
    """What a daemon says is wrong: `kind` as in its answers, and of SQL the `line` and `column`."""

    def __init__(self, message, kind="unavailable", line=None, column=None):
        super().__init__(message)
        self.kind, self.line, self.column = kind, line, column


def connect(url="http://127.0.0.1:8787", *, token=None, ca=None, read="merged", timeout=600):
    """A client of the daemon at an address. `token` is what `anabranch users add` gives, `ca` a file
    with the certificates that vouch for the daemon, `read` "merged" or "batch", `timeout` the seconds
    that an answer may be silent. Nothing is asked yet."""
    return Client(url, token=token, ca=ca, read=read, timeout=timeout)


def _json(value):
    """A value of a parameter, as JSON says it."""
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if hasattr(value, "item"):
        return value.item()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a parameter of type {type(value).__name__} can't be sent; cast it to a text")


def _table(rows):
    """Rows of any kind as a table of Arrow."""
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    if isinstance(rows, pa.RecordBatchReader):
        return rows.read_all()
    if hasattr(rows, "to_arrow"):
        return rows.to_arrow()
    if hasattr(rows, "__arrow_c_stream__") and not hasattr(rows, "iloc"):
        return pa.table(rows)
    if hasattr(rows, "iloc"):
        return pa.Table.from_pandas(rows, preserve_index=False)
    return pa.Table.from_pylist(list(rows))


class Client:
    """Asks one daemon. It holds no connection between two calls."""

    def __init__(self, url, *, token, ca, read, timeout):
        self.url, self.read, self.timeout = url.rstrip("/"), read, timeout
        self._headers = {"user-agent": "anabranch-python"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"
        self._tls = ssl.create_default_context(cafile=ca) if url.startswith("https") else None

    def _ask(self, method, path, query=(), body=None, headers=(), timeout=None):
        pairs = [(name, value) for name, value in query if value is not None]
        url = self.url + path + ("?" + urllib.parse.urlencode(pairs) if pairs else "")
        request = urllib.request.Request(url, data=body, method=method, headers={**self._headers, **dict(headers)})
        try:
            return urllib.request.urlopen(request, timeout=timeout or self.timeout, context=self._tls)
        except urllib.error.HTTPError as e:
            said = e.read()
            try:
                said = json.loads(said)
            except ValueError:
                raise Error(f"{e.code} {said[:1000].decode(errors='replace')}") from None
            raise Error(said["error"], said["kind"], said.get("line"), said.get("column")) from None
        except urllib.error.URLError as e:
            raise Error(f"{self.url} does not answer: {e.reason}") from None

    def sql(self, statement, parameters=(), *, read=None, at_least=None, as_of=None, receipt=False):
        """The answer of a statement, whose `$1`, `$2`, … the parameters stand for. `at_least` is the
        token of facts that the answer has to have seen, `as_of` a moment that has passed: a time with
        its zone as text, places such as tokens have, or a receipt. With `receipt` it has one."""
        body = json.dumps({"sql": statement, "parameters": list(parameters)}, default=_json).encode()
        query = [("read", read or self.read), ("at_least", at_least), ("as_of", as_of)]
        query += [("receipt", "true" if receipt else None)]
        headers = {"content-type": "application/json", "accept": ARROW}
        return Answer(self._ask("POST", "/sql", query, body, headers))

    def replay(self, receipt):
        """Computes the answer of a receipt again from what there was then. Says whether it is the `same`,
        and if not the `differences`."""
        with self._ask("POST", "/replay", body=receipt.encode(), headers={"content-type": "text/plain"}) as said:
            return json.load(said)

    def view(self, name, *, read=None, at_least=None, as_of=None, **keys):
        """The rows of a view with these keys; several values of one are given as a list."""
        query = [("read", read or self.read), ("at_least", at_least), ("as_of", as_of)]
        for key, values in keys.items():
            values = values if isinstance(values, (list, tuple)) else [values]
            query += [(key, value if isinstance(value, str) else str(_text(value))) for value in values]
        path = "/views/" + urllib.parse.quote(name, safe="")
        return Answer(self._ask("GET", path, query, headers={"accept": ARROW}))

    def ingest(self, topic, rows, *, strict=True, key=None, batch_rows=100_000):
        """Appends rows to a topic: a frame of pandas or polars, a table of Arrow, or dicts, columns by
        the names of fields. They are durable, and seen by queries, when this returns. A request that
        fails on its way is sent again, and its facts are taken once. With `strict` a record that can't
        become a fact is an error, and nothing of its `batch_rows` is taken; without, it becomes a dead
        letter. The same `key` makes a whole call repeatable, with the same rows."""
        table = _table(rows)
        key = key or uuid.uuid4().hex
        path = "/topics/" + urllib.parse.quote(topic, safe="")
        total, places = [0, 0, 0], {}
        for nth, start in enumerate(range(0, max(table.num_rows, 1), batch_rows)):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table.slice(start, batch_rows))
            headers = {"content-type": ARROW, "idempotency-key": f"{key}/{nth}"}
            body = sink.getvalue().to_pybytes()
            try:
                said = self._again(path, [("strict", "true" if strict else None)], body, headers)
            except Error as e:
                before = f"; {total[0] + total[1]} records before these were taken" if nth else ""
                raise Error(f"{e}{before}", e.kind) from None
            counts = (said["facts"], said["duplicates"], said["dead_letters"])
            total = [a + b for a, b in zip(total, counts)]
            place, end = said["token"].rsplit(":", 1)
            places[place] = max(places.get(place, 0), int(end))
        token = ",".join(f"{place}:{end}" for place, end in places.items())
        return Taken(*total, token)

    def _again(self, path, query, body, headers):
        for tries in range(TRIES):
            try:
                with self._ask("POST", path, query, body, headers) as answer:
                    return json.load(answer)
            except (Error, OSError, http.client.HTTPException) as e:
                is_passing = not isinstance(e, Error) or e.kind == "unavailable"
                if not is_passing or tries == TRIES - 1:
                    raise e if isinstance(e, Error) else Error(str(e)) from None
                time.sleep(WAIT_SECONDS * 2**tries)

    def follow(self, view, *, token=None, snapshot=True):
        """What changes in a view, as dicts with `op` (jobs/docs/commands.md, "Following a view"): first its
        whole answer, or from where a token says. Goes on over connections that break, and ends when
        the view is gone."""
        path = f"/views/{urllib.parse.quote(view, safe='')}/changes"
        failed = 0
        while True:
            query = [("token", token), ("snapshot", None if snapshot else "false")]
            try:
                with self._ask("GET", path, query, timeout=60) as lines:
                    for line in lines:
                        change = json.loads(line)
                        if change["op"] == "gone":
                            raise Error(change["error"])
                        if change["op"] == "at":
                            token, failed = change["token"], 0
                        yield change
                raise Error(f"{view} is not told any more")
            except (Error, OSError, http.client.HTTPException) as e:
                failed += 1
                is_passing = not isinstance(e, Error) or e.kind == "unavailable"
                if not is_passing or failed > TRIES:
                    raise
                time.sleep(WAIT_SECONDS * 2**failed)


def _text(value):
    return value if isinstance(value, (int, float)) else _json(value)


class Answer:
    """An answer, which is read once: as it comes by `batches`, or as a whole. `freshness` says how
    fresh it is, `notes` what its reader should know, `receipt` what it was computed from, where that
    was asked for."""

    def __init__(self, response):
        headers = response.headers
        self.freshness = urllib.parse.unquote(headers.get("anabranch-freshness", ""))
        self.notes = [urllib.parse.unquote(note) for note in headers.get_all("anabranch-note", [])]
        self.receipt = headers.get("anabranch-receipt")
        self._reader = pa.ipc.open_stream(response)
        self.schema = self._reader.schema

    def batches(self):
        """Its rows as record batches of Arrow, as they come."""
        try:
            yield from self._reader
        except (OSError, http.client.HTTPException) as e:
            raise Error(f"the answer is cut off: {e}") from None

    def arrow(self):
        """All of it, as a table of Arrow."""
        return pa.Table.from_batches(self.batches(), self.schema)

    def pandas(self):
        """All of it, as a frame of pandas."""
        return self.arrow().to_pandas()

    def polars(self):
        """All of it, as a frame of polars."""
        import polars

        return polars.from_arrow(self.arrow())

    def rows(self):
        """All of it, as dicts."""
        return self.arrow().to_pylist()
