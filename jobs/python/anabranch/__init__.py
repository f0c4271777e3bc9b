"""Anabranch from Python: a daemon's client (`connect`, see `anabranch.client`), and steps, which make
the facts of one topic into facts of another.

    import anabranch

    @anabranch.step
    def clean(fact):
        if fact["url"]:
            yield {**fact, "url": fact["url"].split("?")[0]}

    clean.run()

A step is named in `anabranch.toml`, with `run = ["python3", "steps/clean.py"]`; the daemon puts this
module where such programs find it. It needs pyarrow.
"""

import base64
import os
import sys
import traceback

__all__ = ["connect", "step", "Step"]

PROTOCOL = "1"


def connect(url="http://127.0.0.1:8787", **options):
    """A client of the daemon at an address, see `anabranch.client.connect`."""
    from .client import connect

    return connect(url, **options)


def step(function=None, *, batches=None):
    """Makes a step of a function.

    Without `batches` it is called with each fact, a dict by field names; it returns or yields dicts, or
    returns None for nothing. With `batches="arrow"`, `"polars"` or `"pandas"` it is called with many at
    once, as a pyarrow.RecordBatch or a data frame, and returns such: the column `_offset` says of which
    fact a row is made and has to be kept; rows may be left out and repeated.

    What is raised over a fact makes that one a dead letter; over a batch, it is looked for which fact
    is at fault.
    """
    if batches not in (None, "arrow", "polars", "pandas"):
        raise ValueError(f'batches is "arrow", "polars" or "pandas", not {batches!r}')

    def made(function):
        return Step(function, batches)

    return made if function is None else made(function)


class Step:
    """A function that is run over facts."""

    def __init__(self, function, batches):
        self.function = function
        self.batches = batches

    def __call__(self, facts):
        """The function itself, as in tests of it."""
        return self.function(facts)

    def run(self):
        """Speaks with the daemon on standard input and output, until that ends. What the function
        prints goes to the daemon's log."""
        import pyarrow as pa

        answers = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
        os.dup2(2, 1)
        facts = pa.ipc.open_stream(os.fdopen(os.dup(0), "rb", buffering=1 << 16))
        metadata = {k.decode(): v.decode() for k, v in (facts.schema.metadata or {}).items()}
        spoken = metadata.get("anabranch.protocol")
        if spoken != PROTOCOL:
            sys.exit(f"the daemon speaks version {spoken} of what steps speak, this module {PROTOCOL}")
        fields = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(metadata["anabranch.to_schema"])))
        schema = answer_schema(pa, fields)
        with pa.ipc.new_stream(answers, schema) as out:
            # A row without `_offset` says that it is ready, and then ends each answer.
            end = pa.RecordBatch.from_pylist([{}], schema=schema)
            out.write_batch(end)
            answers.flush()
            for batch in facts:
                for answer in self.answer(pa, batch, schema):
                    out.write_batch(answer)
                out.write_batch(end)
                answers.flush()

    def answer(self, pa, batch, schema):
        """What is made of a batch, in the columns of an answer."""
        if self.batches is None:
            return [pa.RecordBatch.from_pylist(list(self.rows(batch, schema)), schema=schema)]
        if self.batches == "arrow":
            made = self.function(batch)
        elif self.batches == "polars":
            import polars

            made = self.function(polars.from_arrow(batch))
        else:
            made = self.function(batch.to_pandas())
        return in_columns(pa, made, schema)

    def rows(self, batch, schema):
        names = set(schema.names)
        for fact in batch.to_pylist():
            offset = fact["_offset"]
            try:
                made = self.function(fact)
                if made is None:
                    continue
                if isinstance(made, dict):
                    made = [made]
                rows = [of_topic(row, names) for row in made]
            except Exception as error:  # Whatever is raised, it is this fact's.
                yield {"_offset": offset, "_error": told(error)}
                continue
            for row in rows:
                row["_offset"] = offset
                yield row


def told(error):
    """An exception in a line, with the place where it was raised."""
    text = f"{type(error).__name__}: {error}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    if frames:
        text += f" ({frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name})"
    return text


def of_topic(row, names):
    """The fields of a row. Those that begin with `_` are the log's, and are left out."""
    kept = {name: value for name, value in row.items() if not name.startswith("_")}
    unknown = [name for name in kept if name not in names]
    if unknown:
        raise ValueError(f"`{unknown[0]}` is no field of the topic that facts are made of")
    return kept


def answer_schema(pa, fields):
    """The columns of an answer: those of the topic, and what they are made of."""
    columns = [pa.field("_offset", pa.int64()), pa.field("_error", pa.string())]
    columns += [pa.field(f.name, f.type) for f in fields]
    return pa.schema(columns, metadata={"anabranch.protocol": PROTOCOL})


def in_columns(pa, made, schema):
    """What was made, of whatever library, in the columns of an answer."""
    if made is None:
        return []
    if hasattr(made, "to_arrow"):
        made = made.to_arrow()
    elif type(made).__module__.startswith("pandas"):
        made = pa.Table.from_pandas(made, preserve_index=False)
    if isinstance(made, pa.RecordBatch):
        made = pa.Table.from_batches([made])
    if "_offset" not in made.column_names:
        raise ValueError("what was made has no column `_offset`: keep it as it came")
    names = set(schema.names)
    unknown = [n for n in made.column_names if not n.startswith("_") and n not in names]
    if unknown:
        raise ValueError(f"`{unknown[0]}` is no field of the topic that facts are made of")
    columns = []
    for field in schema:
        if field.name in made.column_names:
            columns.append(made.column(field.name).cast(field.type))
        else:
            columns.append(pa.nulls(made.num_rows, field.type))
    return pa.Table.from_arrays(columns, schema=schema).combine_chunks().to_batches()
