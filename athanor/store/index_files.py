"""The files of a document index, and how damage to them is noticed: by a checksum for every 4 KiB.

All numbers are little-endian:

    index.json        version, number of shards, documents and bytes, the longest query, checksums of the small files
    names             the documents' names, UTF-8, one after another;  name_ends: u64 per document
    pieces            7 u64 per piece (see PIECE), in document order; a document longer than a shard has several
    00000.text        the shard's documents, each followed by 0xFF
    00000.suffixes    u32 per character: where the character starts in the text, sorted by what follows it
    00000.samples     24 bytes per 1,024 suffixes: the beginning of the text behind the first of them
    00000.prefixes    65,537 u32: the first suffix whose two leading bytes are at least this number
    NAME.checks       u32 per 4 KiB of the file NAME (names, text, suffixes, samples): its CRC-32

A file of gigabytes is never read whole to be verified: a page is compared with its checksum when a query first touches
it, and what a query did not touch cannot have changed its answer.
"""

import mmap
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from athanor.base.errors import AthanorError

VERSION = 3
SEPARATOR = 0xFF
PIECE = ("document", "start", "length", "shard", "place", "characters", "lines")  # lines, characters: before the piece
SAMPLED, SAMPLE = 1024, 24  # suffixes for each sample, which are one page; bytes of a sample
PAGE = 4096
PAGE_BITS = 12
BLOCK = 1 << 20
DAMAGED = "the index is damaged: delete its artifact and run the recipe again"


def encode(text: str) -> bytes:
    """UTF-8; half of a surrogate pair, which JSON can carry, is kept instead of refused."""
    return text.encode("utf-8", "surrogatepass")


def count_characters(data: bytes, start: int, stop: int) -> int:
    """Characters in `data[start:stop]`: the bytes that do not continue one."""
    total = 0
    for begin in range(start, stop, BLOCK):
        block = np.frombuffer(data, dtype=np.uint8, count=min(stop - begin, BLOCK), offset=begin)
        total += int(np.count_nonzero(block & 0xC0 != 0x80))
    return total


def write_checks(path: Path) -> None:
    """Write the checksums of a finished file beside it."""
    checks = []
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            checks += [zlib.crc32(block[begin : begin + PAGE]) for begin in range(0, len(block), PAGE)]
    np.array(checks, dtype="<u4").tofile(checks_of(path))


def checks_of(path: Path) -> Path:
    """The file of a file's checksums."""
    return path.with_name(path.name + ".checks")


def sealed(path: Path, checked: Path | None = None) -> list[int]:
    """What index.json keeps of a file: its size, and the CRC-32 of it or (where given) of the file of its checksums."""
    return [path.stat().st_size, zlib.crc32((checked or path).read_bytes())]


def map_file(path: Path) -> Any:
    """A read-only memory map; nothing is read ahead, since a search jumps about."""
    if not path.is_file():
        raise AthanorError(f"{path} is missing", fix=DAMAGED)
    if path.stat().st_size == 0:
        return b""  # the system maps no empty files
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)
    return mapped


def read_small(path: Path, checksum: int) -> bytes:
    """The whole of a file, compared with its checksum.

    Raises:
        AthanorError: it is missing or has changed.
    """
    if not path.is_file():
        raise AthanorError(f"{path} is missing", fix=DAMAGED)
    data = path.read_bytes()
    if zlib.crc32(data) != checksum:
        raise AthanorError(f"{path} has changed since it was written", fix=DAMAGED)
    return data


class CheckedFile:
    """A memory-mapped file whose pages are compared with their checksums when they are first touched.

    Args:
        path: the file.
        seal: its size, and the checksum of its file of checksums.

    Raises:
        AthanorError: a file is missing, or has another size than when it was written.
    """

    def __init__(self, path: Path, seal: Sequence[int]):
        self.path, self.data = path, map_file(path)
        if len(self.data) != seal[0]:
            raise AthanorError(f"{path} has {len(self.data):,} bytes, it had {seal[0]:,}", fix=DAMAGED)
        self.checks = memoryview(read_small(checks_of(path), seal[1])).cast("I")
        self.seen = bytearray(len(self.checks)) + b"\1\1"  # behind the end there is nothing to be compared

    def __len__(self) -> int:
        return len(self.data)

    def expect(self) -> None:
        """Let the system read the whole file ahead, while something else is done."""
        if len(self.data) and hasattr(mmap, "MADV_WILLNEED"):
            self.data.madvise(mmap.MADV_WILLNEED)

    def check(self, start: int, stop: int) -> None:
        """Compare the pages of these bytes with their checksums, unless that was done before.

        Raises:
            AthanorError: they have changed since they were written.
        """
        for page in range(start >> PAGE_BITS, min((stop - 1 >> PAGE_BITS) + 1, len(self.checks))):
            if not self.seen[page]:
                if zlib.crc32(self.data[page * PAGE : page * PAGE + PAGE]) != self.checks[page]:
                    raise AthanorError(f"{self.path} has changed since it was written (page {page})", fix=DAMAGED)
                self.seen[page] = 1

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop`, as far as the file reaches."""
        first = start >> PAGE_BITS
        if not (self.seen[first] and (self.seen[first + 1] or stop <= first + 1 << PAGE_BITS)) or stop - start > PAGE:
            self.check(start, stop)  # this line is not reached by most of the short reads of a search
        part: bytes = self.data[start:stop]
        return part
