"""Tables: the columns of .parquet files, read a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from danlu.data.files import INSTALL
from danlu.data.unreadable import UnreadableFile
from danlu.errors import DataError

_ROWS = 256
_BUFFER = 1 << 20


@contextmanager
def table(path: Path) -> Generator[Any]:
    """Yield an open `pyarrow.parquet.ParquetFile`.

    Raises DataError where pyarrow is missing, UnreadableFile where the file is broken: also later, within the block.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(f"{path}: reading .parquet needs one more package: {INSTALL}") from None
    try:
        # with a buffer a column is read piece by piece; without, a whole row group lies in memory
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER) as file:
            yield file
    except PermissionError:
        raise
    except (pa.ArrowException, OSError) as error:  # pyarrow says OSError of broken contents, too
        message = str(error).split("\n")[0]
        raise UnreadableFile(path, f"is no parquet file, or a broken one ({message})") from None


def records(file: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of an open table. Of times, digits beyond the microsecond are dropped: Python has none.

    Raises UnreadableFile for values that Python has none of, such as dates after the year 9999.
    """
    read: Callable[[Any], list[dict[str, Any]]] = _reader(file.schema_arrow)
    for batch in file.iter_batches(batch_size=_ROWS):
        try:
            rows = read(batch)
        except (ValueError, OverflowError) as error:
            raise UnreadableFile(path, f"holds values that cannot be read ({error})") from None
        yield from rows


def _reader(schema: Any) -> Callable[[Any], list[dict[str, Any]]]:
    """Return what makes records of a batch of rows."""
    import pyarrow as pa

    coarser = [pa.field(field.name, _in_microseconds(field.type)) for field in schema]
    if all(new.type == old.type for new, old in zip(coarser, schema, strict=True)):
        return lambda batch: batch.to_pylist()
    wanted = pa.schema(coarser)
    return lambda batch: batch.cast(wanted, safe=False).to_pylist()


def _in_microseconds(kind: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_time64(kind):
        return pa.time64("us")
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    return kind
