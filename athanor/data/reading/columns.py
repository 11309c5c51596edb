"""Parquet and Arrow files, Hugging Face `datasets` folders among them: one document per row.

Only the columns that are wanted are read, some rows at a time, so that memory does not follow the size of the file.
"""

from collections.abc import Iterator
from typing import Any

from athanor.base.errors import AthanorError
from athanor.data.document import Document
from athanor.data.reading.decode import Unreadable
from athanor.data.reading.items import ReadLimits, SetAside, documents_of_row, find_text_field
from athanor.data.reading.sources import SourceFile

AT_ONCE = 4_000_000  # bytes of values that are looked at together
MOST_ROWS = 4_096  # at once
BUFFER = 1 << 20  # bytes of a column read at a time
FILE_MARK = b"ARROW1"  # an Arrow file begins with it; the stream format, which `datasets` writes, does not
FACTS = ("url",)


def pyarrow() -> Any:
    """The library pyarrow, 170 MB, with its parquet module.

    Raises:
        AthanorError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet  # noqa: F401 - reached as pyarrow.parquet
    except ImportError:
        raise AthanorError(
            "parquet and arrow files need pyarrow, which is not installed", fix='pip install "athanor[parquet]"'
        ) from None
    return pyarrow


def read_parquet(file: SourceFile, limits: ReadLimits) -> Iterator[Document | SetAside]:
    """One document per row of a parquet file; a broken row group is set aside and the next ones are read."""
    arrow = pyarrow()
    with file.open() as stream:
        try:
            table = arrow.parquet.ParquetFile(stream, buffer_size=BUFFER, pre_buffer=False)
        except (arrow.ArrowException, OSError) as problem:
            raise _broken("parquet", problem) from None
        field, columns = _columns(table.schema_arrow.names, limits)
        before = 0
        for number in range(table.num_row_groups):
            group = table.metadata.row_group(number)
            rows_at_once = _rows_at_once(group.total_byte_size, group.num_rows)
            read = 0
            try:
                for batch in table.iter_batches(rows_at_once, row_groups=[number], columns=columns, use_threads=False):
                    yield from _documents(batch, field, before + read, file.name, limits)
                    read += batch.num_rows
            except (arrow.ArrowException, OSError) as problem:
                where = f"rows {before + read + 1} to {before + group.num_rows}: {_first_line(problem)}"
                yield SetAside(f"{file.name}#{before + read + 1}", "broken parquet", where, group.total_byte_size)
            before += group.num_rows


def read_arrow(file: SourceFile, limits: ReadLimits) -> Iterator[Document | SetAside]:
    """One document per row of an Arrow file or stream (Feather 2 and the files of `datasets` are such)."""
    arrow = pyarrow()
    with file.open() as stream:
        in_file = stream.read(len(FILE_MARK)) == FILE_MARK
        stream.seek(0)
        before = 0
        try:
            for batch in _batches(arrow, stream, in_file):
                field, columns = _columns(batch.schema.names, limits)
                batch = batch.select(columns)
                rows_at_once = _rows_at_once(batch.nbytes, batch.num_rows)
                for start in range(0, batch.num_rows, rows_at_once):
                    part = batch.slice(start, rows_at_once)
                    yield from _documents(part, field, before + start, file.name, limits)
                before += batch.num_rows
        except (arrow.ArrowException, OSError) as problem:
            raise _broken("arrow file", problem, f"behind row {before}: ") from None


def _batches(arrow: Any, stream: Any, in_file: bool) -> Iterator[Any]:
    if not in_file:
        yield from arrow.ipc.open_stream(stream)
        return
    reader = arrow.ipc.open_file(stream)
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _columns(names: list[str], limits: ReadLimits) -> tuple[str, list[str]]:
    """The column with the text, and all that are read."""
    field = find_text_field(names, limits.text_field)
    return field, [name for name in names if name == field or name in FACTS]


def _rows_at_once(size: int, rows: int) -> int:
    """How many rows of a piece with so many bytes and rows are looked at together."""
    return max(1, min(MOST_ROWS, AT_ONCE * rows // max(1, size)))


def _documents(batch: Any, field: str, before: int, name: str, limits: ReadLimits) -> Iterator[Document | SetAside]:
    """The documents of some rows; so many stand before them in the file."""
    columns = {column: _values(batch.column(column)) for column in batch.schema.names}
    for place in range(batch.num_rows):
        number = before + place + 1
        row = {column: values[place] for column, values in columns.items()}
        if isinstance(row[field], bytes):
            yield SetAside(f"{name}#{number}", f"field {field} is not text", f"row {number}", len(row[field]))
        elif isinstance(row[field], str) and len(row[field]) > limits.max_line_bytes:
            detail = f"row {number} is longer than {limits.max_line_bytes} bytes"
            yield SetAside(f"{name}#{number}", "row too long", detail, len(row[field]))
        else:
            yield from documents_of_row(row, field, f"{name}#{number}", f"row {number}", limits)


def _values(column: Any) -> list[Any]:
    """A column's values; text that is no UTF-8 stays bytes."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return bytes(scalar.as_buffer())


def _broken(what: str, problem: Exception, where: str = "") -> Unreadable:
    encrypted = "encrypt" in str(problem).lower()
    return Unreadable(f"{'encrypted' if encrypted else 'broken'} {what}", where + _first_line(problem))


def _first_line(problem: Exception) -> str:
    return str(problem).split("\n", 1)[0][:200]
