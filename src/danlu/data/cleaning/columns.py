"""Records as columns: one schema for all files of .parquet, though no record need have all fields."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from danlu.data.cleaning.records import Record
from danlu.data.files import INSTALL
from danlu.errors import DataError

_ROWS = 1024


def arrow() -> Any:
    """Return pyarrow. Raises DataError where it is missing."""
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"--format parquet needs one more package: {INSTALL}") from None
    return pa


def schema_of(records: Sequence[Record]) -> Any:
    """Return the schema of all fields of some records. Raises DataError where one holds values of several kinds."""
    pa = arrow()
    names = dict.fromkeys(name for record in records for name in record)
    fields: list[Any] = []
    for name in names:
        values = [_plain(record.get(name)) for record in records]
        try:
            fields.append(pa.field(name, pa.array(values).type))
        except (pa.ArrowException, OverflowError) as error:
            raise _mixed(name, error) from None
    return pa.schema(fields)


def read_schema(path: Path) -> Any:
    """Return a schema that was written to a file by itself."""
    return arrow().ipc.read_schema(arrow().py_buffer(path.read_bytes()))


def joined(schemas: Sequence[Any]) -> Any:
    """Return the schema that holds all of several. Raises DataError where there is none."""
    pa = arrow()
    try:
        return pa.unify_schemas(list(schemas), promote_options="permissive")
    except pa.ArrowException as error:
        raise _mixed(None, error) from None


def unified(schemas: Sequence[Any]) -> Any:
    """Return the schema that holds all of several. Raises DataError where there is none that .parquet knows."""
    pa, schema = arrow(), joined(schemas)
    try:
        pa.parquet.ParquetWriter(pa.BufferOutputStream(), schema).close()  # tells of objects without a field
    except pa.ArrowException as error:
        raise _mixed(None, error) from None
    return schema


def whole_schema(source: Any, inferred: Sequence[Any]) -> Any:
    """Return the schema to write: the columns of the sources, if they are tables, and what else the records hold."""
    found = unified(inferred)
    if source is None:
        return found
    return arrow().schema([*source, *(field for field in found if field.name not in source.names)])


@contextmanager
def parquet_file(path: Path, schema: Any) -> Generator[Callable[[Record], None]]:
    """Yield what writes a record to a new .parquet; `_ROWS` of them lie in memory."""
    pa = arrow()
    rows: list[Record] = []
    with pa.parquet.ParquetWriter(path, schema, compression="zstd") as file:

        def flush() -> None:
            file.write_table(pa.Table.from_arrays(columns(rows, schema), schema=schema))
            rows.clear()

        def write(record: Record) -> None:
            rows.append(record)
            if len(rows) == _ROWS:
                flush()

        yield write
        if rows:
            flush()


def columns(records: Sequence[Mapping[str, Any]], schema: Any) -> list[Any]:
    """Return records as arrays, one for each field. Raises DataError for a value that does not fit its field."""
    pa = arrow()
    made: list[Any] = []
    for field in schema:
        try:
            made.append(pa.array([_plain(record.get(field.name)) for record in records], field.type))
        except (pa.ArrowException, OverflowError) as error:
            raise _mixed(field.name, error) from None
    return made


def _plain(value: Any) -> Any:
    """Return a value without lone surrogates, which columns cannot hold: each becomes a question mark."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_plain(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


def _mixed(name: str | None, error: Exception) -> DataError:
    what = f"field {name!r} has" if name else "its fields have"
    message = str(error).split("\n")[0]
    return DataError(f"--format parquet: {what} values that make no column ({message}). Write --format jsonl.zst")
