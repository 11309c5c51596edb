"""Pictures and sounds with their words: the words are the document's text, the picture or sound a reference beside it.

Words are a file of the same name (photo.jpg and photo.txt), or a row of a table in the folder (metadata.jsonl or .csv
with a column file_name, as Hugging Face's imagefolder and audiofolder have it). Only headers are read: a reference
says where the medium lies, how large it is, and its size in pixels or its length in seconds.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import IO, Any

from athanor.data.document import Document, make_document
from athanor.data.reading.decode import Unreadable, decode_stream, find_encoding
from athanor.data.reading.items import ReadLimits, SetAside
from athanor.data.reading.sources import Folder, SourceFile

CAPTION_FIELDS = ("text", "caption", "transcript", "transcription", "sentence", "title")
NAME_FIELD = "file_name"
HEADER = 1 << 20  # bytes of a picture that are looked at for its size
NO_WORDS = {"picture": "a picture without words", "sound": "a sound without words"}


def read_medium(file: SourceFile, limits: ReadLimits) -> Iterator[Document | SetAside]:
    """The document of a picture or sound with the words that lie beside it."""
    assert file.kind is not None
    if not file.captions:
        raise Unreadable(NO_WORDS[file.kind])
    with file.open() as stream:
        yield document_of(read_captions(file.captions, limits), file.name, [refer(file, stream)], limits)


def document_of(text: str, name: str, media: list[dict[str, Any]], limits: ReadLimits, **meta: Any) -> Document:
    """The document of some words and what they belong to.

    Raises:
        Unreadable: there are no words, or more than a document may have.
    """
    if not text.strip():
        raise Unreadable(NO_WORDS[media[0]["kind"]])
    if len(text.encode()) > limits.max_document_bytes:
        raise Unreadable("words too long for one document", f"more than {limits.max_document_bytes} bytes")
    return replace(make_document(text, name, kind="caption", **meta), media=tuple(media))


def refer(file: SourceFile, stream: IO[bytes]) -> dict[str, Any]:
    """The reference to a picture or sound.

    Raises:
        Unreadable: it is none.
    """
    facts = picture_facts(stream) if file.kind == "picture" else sound_facts(stream)
    return {"kind": file.kind, **file.reference(), "bytes": file.size, **facts}


def picture_facts(stream: IO[bytes]) -> dict[str, Any]:
    """Width and height in pixels, as the picture is shown (EXIF's rotation applied)."""
    import imagesize

    try:
        width, height = imagesize.get(io.BytesIO(stream.read(HEADER)))
    except (ValueError, EOFError, IndexError, OverflowError) as problem:
        raise Unreadable("broken picture", str(problem)) from None
    if width <= 0 or height <= 0:
        raise Unreadable("broken picture", "its size is not stated")
    return {"width": width, "height": height}


def sound_facts(stream: IO[bytes]) -> dict[str, Any]:
    """Length in seconds and samples in a second."""
    from tinytag import TinyTag, TinyTagException

    try:
        found = TinyTag.get(file_obj=stream, tags=False)  # type: ignore[arg-type]
    except (TinyTagException, ValueError, EOFError) as problem:
        raise Unreadable("broken sound", str(problem)) from None
    if not found.duration or not found.samplerate:
        raise Unreadable("broken sound", "its length is not stated")
    return {"seconds": round(found.duration, 3), "sample_rate": found.samplerate}


def read_captions(files: Sequence[SourceFile], limits: ReadLimits) -> str:
    """The words in the files beside a picture or sound: of plain text, or else of JSON; "" when there are none.

    Raises:
        Unreadable: a file is too long, or neither text nor JSON.
    """
    plain = [file for file in files if file.path.suffix.lower() != ".json"]
    found = "\n".join(filter(None, (_read(file, limits).strip() for file in plain)))
    if found:
        return found
    for file in files:
        if file not in plain:
            try:
                row = json.loads(_read(file, limits) or "{}")
            except (ValueError, RecursionError) as problem:
                raise Unreadable("words that are not JSON", f"{file.path.name}: {problem}") from None
            if isinstance(row, dict) and (words := words_of(row, limits.text_field)):
                return words
    return ""


def _read(file: SourceFile, limits: ReadLimits) -> str:
    if file.size > limits.max_line_bytes:
        raise Unreadable("words too long for one document", file.path.name)
    return "".join(decode_stream(file.open_raw, find_encoding(file.open_raw))) if file.size else ""


def words_of(row: Mapping[str, Any], text_field: str | None) -> str:
    """The words in a row about a picture or sound; "" when it has none."""
    for name in (text_field,) if text_field else CAPTION_FIELDS:
        if isinstance(row.get(name), str):
            return str(row[name]).strip()
    return ""


def document_of_row(
    row: Mapping[str, Any], folder: Folder, name: str, named: set[str], limits: ReadLimits
) -> Document | SetAside:
    """The document of a table's row; the path of its picture or sound is added to `named`."""
    path = row.get(NAME_FIELD)
    if not isinstance(path, str) or not path:
        return SetAside(name, f"no field {NAME_FIELD}")
    parts = path.replace("\\", "/").split("/")
    if ".." in parts or path.startswith("/") or ":" in parts[0]:
        return SetAside(name, "a path that leads out of the folder", path)
    named.add(path)
    file = folder.find(path)
    try:
        if file.problem:
            raise Unreadable(file.problem)
        if file.kind not in NO_WORDS:
            raise Unreadable(f"neither picture nor sound: {file.kind}")
        with file.open() as stream:
            return document_of(words_of(row, limits.text_field), name, [refer(file, stream)], limits)
    except Unreadable as problem:
        return SetAside(name, problem.reason, f"{path} {problem.detail}".strip(), file.size)


def without_words(folder: Folder, named: set[str]) -> Iterator[SetAside]:
    """The pictures and sounds of a folder that its table does not name."""
    for path in folder.media():
        if path not in named:
            file = folder.find(path)
            yield SetAside(path, NO_WORDS.get(file.kind or "", "nothing usable in it"), size=file.size)
