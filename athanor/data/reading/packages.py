"""Files that are ZIP archives of XML: opened with an eye on what they may unpack to.

A small archive can hold petabytes of zeros, and a small XML file can define entities that grow without end. So a part
is unpacked up to a limit, all parts together too, and XML that defines entities is refused.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO
from xml.parsers import expat

from athanor.data.reading.decode import BLOCK, Unreadable

LARGEST_PART = 64_000_000  # bytes
LARGEST_PACKAGE = 512_000_000  # bytes of all parts together
COMPOUND_FILE = b"\xd0\xcf\x11\xe0"  # what Office wraps around an encrypted file, and its own old format

Start = Callable[[str, dict[str, str]], None]


class Package:
    """A ZIP archive whose parts are read within limits.

    Raises:
        Unreadable: it is none, is broken or encrypted, or unpacks to too much.
    """

    def __init__(self, stream: IO[bytes], kind: str):
        self.kind, self.unpacked = kind, 0
        if stream.read(len(COMPOUND_FILE)) == COMPOUND_FILE:
            raise Unreadable(f"encrypted {kind}, or of a format before 2007")
        stream.seek(0)
        try:
            self.archive = zipfile.ZipFile(stream)
            self.names = set(self.archive.namelist())
        except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as problem:
            raise Unreadable(f"broken {kind}", str(problem)) from None

    def blocks(self, name: str) -> Iterator[bytes]:
        """A part, unpacked, in pieces of at most a megabyte."""
        if name not in self.names:
            raise Unreadable(f"broken {self.kind}", f"it has no part {name}")
        part = self.archive.getinfo(name)
        if part.flag_bits & 1:
            raise Unreadable(f"encrypted {self.kind}")
        size = 0
        try:
            with self.archive.open(part) as stream:
                while block := stream.read(BLOCK):
                    size += len(block)
                    self.unpacked += len(block)
                    if size > LARGEST_PART or self.unpacked > LARGEST_PACKAGE:
                        raise Unreadable(f"{self.kind} unpacks to too much", f"{name}: more than {size - 1} bytes")
                    yield block
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as problem:
            raise Unreadable(f"broken {self.kind}", f"{name}: {problem}") from None

    def read(self, name: str) -> bytes:
        """A whole part."""
        return b"".join(self.blocks(name))


class XmlReader:
    """An XML parser that tells of elements by their names without prefixes, and of text; it refuses entities.

    Raises:
        Unreadable: on `feed`, when it is no XML or defines entities.
    """

    def __init__(self, part: str, start: Start, end: Callable[[str], None], text: Callable[[str], None]):
        self.part = part
        self.parser = expat.ParserCreate(namespace_separator="}")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = lambda name, given: start(_local(name), {_local(k): given[k] for k in given})
        self.parser.EndElementHandler = lambda name: end(_local(name))
        self.parser.CharacterDataHandler = text
        self.parser.EntityDeclHandler = self._refuse

    def feed(self, data: bytes, last: bool = False) -> None:
        """Parse some more bytes."""
        try:
            self.parser.Parse(data, last)
        except expat.ExpatError as problem:
            raise Unreadable("broken XML", f"{self.part}: {problem}") from None

    def _refuse(self, *_: object) -> None:
        raise Unreadable("XML that defines entities", self.part)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def elements(part: str, data: bytes) -> list[tuple[str, dict[str, str], str]]:
    """(name, attributes, text directly in it) of every element of a small XML part, in the order they begin."""
    found: list[tuple[str, dict[str, str], list[str]]] = []
    around: list[list[str]] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        found.append((name, attributes, []))
        around.append(found[-1][2])

    def text(piece: str) -> None:
        if around:
            around[-1].append(piece)

    def end(_: str) -> None:
        around.pop()

    reader = XmlReader(part, start, end, text)
    reader.feed(data, last=True)
    return [(name, attributes, "".join(pieces).strip()) for name, attributes, pieces in found]
