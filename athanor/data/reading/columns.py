"""Parquet and Arrow files, Hugging Face `datasets` folders among them: one document per row.

Only the columns that are wanted are read, some rows at a time, so that memory does not follow the size of the file.
Pictures and sounds in a column (of bytes, or as `datasets` keeps them: bytes and path) belong to the text of their row.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from athanor.base.errors import AthanorError
from athanor.data.document import Document
from athanor.data.reading.decode import Unreadable
from athanor.data.reading.items import ReadLimits, SetAside, documents_of_row, find_text_field, wanted_fields
from athanor.data.reading.media import CAPTION_FIELDS, document_of, refer
from athanor.data.reading.sources import SourceFile

AT_ONCE = 4_000_000  # bytes of values that are looked at together
MOST_ROWS = 4_096  # at once
BUFFER = 1 << 20  # bytes of a column read at a time
FILE_MARK = b"ARROW1"  # an Arrow file begins with it; the stream format, which `datasets` writes, does not
DAMAGE = (OSError, MemoryError, OverflowError, UnicodeDecodeError)  # how else pyarrow tells of it
MEDIA_COLUMNS = ("image", "picture", "png", "jpg", "jpeg", "webp", "audio", "sound", "wav", "mp3", "flac")
MEDIA_STRUCTS = ("struct<bytes: binary, path: string>", "struct<path: string, bytes: binary>")  # of `datasets`
SOUND_MARKS = (b"RIFF", b"ID3", b"fLaC", b"OggS", b"\xff\xfb", b"\xff\xf3")


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
        except (arrow.ArrowException, *DAMAGE) as problem:
            raise _broken("parquet", problem) from None
        layout = _layout(table.schema_arrow, limits)
        before = 0
        for number in range(table.num_row_groups):
            group = table.metadata.row_group(number)
            rows_at_once = _rows_at_once(group.total_byte_size, group.num_rows)
            read = 0
            try:
                batches = table.iter_batches(
                    rows_at_once, row_groups=[number], columns=layout.columns, use_threads=False
                )
                for batch in batches:
                    yield from _documents(batch, layout, before + read, file, limits)
                    read += batch.num_rows
            except (arrow.ArrowException, *DAMAGE) as problem:
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
                _check(arrow, batch)
                layout = _layout(batch.schema, limits)
                batch = batch.select(layout.columns)
                rows_at_once = _rows_at_once(batch.nbytes, batch.num_rows)
                for start in range(0, batch.num_rows, rows_at_once):
                    part = batch.slice(start, rows_at_once)
                    yield from _documents(part, layout, before + start, file, limits)
                before += batch.num_rows
        except (arrow.ArrowException, *DAMAGE) as problem:
            raise _broken("arrow file", problem, f"behind row {before}: ") from None


def _batches(arrow: Any, stream: Any, in_file: bool) -> Iterator[Any]:
    if not in_file:
        yield from arrow.ipc.open_stream(stream)
        return
    reader = arrow.ipc.open_file(stream)
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _check(arrow: Any, batch: Any) -> None:
    """Refuse a batch whose offsets point out of its buffers: the library would follow them. Text is looked at later."""
    try:
        batch.validate(full=True)
    except arrow.ArrowInvalid as problem:
        if "UTF8" not in str(problem):
            raise


@dataclass(frozen=True, slots=True)
class _Layout:
    """The columns of a file that are read: the one with the text, those with pictures or sounds, and all of them."""

    field: str
    media: list[str]
    columns: list[str]


def _layout(schema: Any, limits: ReadLimits) -> _Layout:
    """What is read of a file with this schema.

    Raises:
        Unreadable: there is no column with text.
    """
    names = list(schema.names)
    media = [column.name for column in schema if _holds_media(column)]
    try:
        field = find_text_field(names, limits.text_field)
    except Unreadable:
        caption = next((name for name in CAPTION_FIELDS if name in names), None)
        if not media or caption is None or limits.text_field:
            raise
        field = caption
    wanted = (*wanted_fields(field, limits), *media)
    return _Layout(field, media, [name for name in names if name in wanted])


def _holds_media(column: Any) -> bool:
    kind = str(column.type)
    return (column.name in MEDIA_COLUMNS and "binary" in kind) or kind in MEDIA_STRUCTS


def _rows_at_once(size: int, rows: int) -> int:
    """How many rows of a piece with so many bytes and rows are looked at together."""
    return max(1, min(MOST_ROWS, AT_ONCE * rows // max(1, size)))


def _documents(
    batch: Any, layout: _Layout, before: int, file: SourceFile, limits: ReadLimits
) -> Iterator[Document | SetAside]:
    """The documents of some rows; so many stand before them in the file."""
    columns = {column: _values(batch.column(column)) for column in batch.schema.names}
    for place in range(batch.num_rows):
        number = before + place + 1
        row = {column: values[place] for column, values in columns.items()}
        name, text = f"{file.name}#{number}", row[layout.field]
        if isinstance(text, bytes):
            yield SetAside(name, f"field {layout.field} is not text", f"row {number}", len(text))
        elif isinstance(text, str) and len(text) > limits.max_line_bytes:
            yield SetAside(name, "row too long", f"more than {limits.max_line_bytes} bytes", len(text))
        elif any(row[column] for column in layout.media):
            yield _with_media(row, layout, number, file, limits)
        else:
            yield from documents_of_row(row, layout.field, name, f"row {number}", limits)


def _with_media(row: dict[str, Any], layout: _Layout, number: int, file: SourceFile, limits: ReadLimits) -> Any:
    """The document of a row with pictures or sounds."""
    name = f"{file.name}#{number}"
    try:
        media = []
        for column in layout.media:
            data = row[column]["bytes"] if isinstance(row[column], dict) else row[column]
            if data:
                where = {**file.reference(), "row": number - 1, "column": column}
                kind = "sound" if data.startswith(SOUND_MARKS) else "picture"
                medium = SourceFile(file.path, name, kind, len(data), where=where)
                media.append(refer(medium, io.BytesIO(data)))
        if not media:
            raise Unreadable("a picture or sound that lies elsewhere")
        return document_of(str(row[layout.field] or ""), name, media, limits)
    except Unreadable as problem:
        return SetAside(name, problem.reason, f"row {number} {problem.detail}".strip())


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
