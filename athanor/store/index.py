"""The document index behind `why`: every stretch of a text that stands word for word in the training documents.

A suffix array per shard, on disk and memory-mapped (Manber and Myers 1993, "Suffix arrays: a new method for on-line
string searches"). Matching is verbatim over UTF-8 bytes: no case folding, no Unicode normalisation, no trimming.
Spans begin and end between characters and never cross a document: every document ends with the byte 0xFF, which no
UTF-8 text contains. The files: `index_files`; building: `index_build`.

The results do not depend on how the documents were cut into shards: a piece of a long document is stored with the
`longest_query` bytes that follow it, so that a match which begins in it is seen whole.
"""

import bisect
import codecs
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from athanor.base.errors import AthanorError
from athanor.base.files import read_json
from athanor.store.index_files import (
    PAGE_BITS,
    PIECE,
    SAMPLE,
    SAMPLED,
    VERSION,
    CheckedFile,
    count_characters,
    encode,
    read_small,
)

SHARD_FILES = ("text", "suffixes", "samples", "prefixes")
FIRST_COMPARED = 32  # bytes; most comparisons end within them
SORTED_AT_ONCE = 1 << 22  # suffixes


@dataclass(frozen=True)
class Occurrence:
    """One place where a span stands: `document` is its name, `number` its place in the order of building."""

    document: str
    number: int
    byte_offset: int
    character_offset: int
    line: int  # counted from 1, lines end with "\n"
    before: str
    after: str


@dataclass(frozen=True)
class Span:
    """A stretch `text[start:end]` of the query (in characters) that occurs `count` times in the documents."""

    text: str
    start: int
    end: int
    count: int
    occurrences: tuple[Occurrence, ...]


def decode_whole_characters(data: bytes) -> str:
    """The text of `data` without the broken characters that a cut left at both ends."""
    begin = next((i for i, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), 0)
    return codecs.getincrementaldecoder("utf-8")("surrogatepass").decode(data[begin:])


class DocumentIndex:
    """An index opened for reading: the system maps the pages that a query touches, and each is checked the first time.

    Raises:
        AthanorError: the folder holds no index, another version, or damaged files.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        if not (self.folder / "index.json").is_file():
            raise AthanorError(f"{self.folder} holds no document index", fix="run the step that builds one")
        record = read_json(self.folder / "index.json")
        if not isinstance(record, dict) or record.get("version") != VERSION or sys.byteorder != "little":
            raise AthanorError(f"{self.folder} is not a document index of version {VERSION}", fix="build it again")
        self.documents, self.bytes, self.longest_query = record["documents"], record["bytes"], record["longest_query"]
        checks = record["checks"]
        self.names = CheckedFile(self.folder / "names", checks["names"])
        self.name_ends = memoryview(read_small(self.folder / "name_ends", checks["name_ends"][1])).cast("Q")
        pieces = read_small(self.folder / "pieces", checks["pieces"][1])
        self.pieces = np.frombuffer(pieces, dtype="<u8").reshape(-1, len(PIECE)).astype(np.int64, copy=False)
        self.shards = [_Shard(self.folder / f"{number:05d}", checks) for number in range(record["shards"])]
        shard_of_piece = self.pieces[:, PIECE.index("shard")]
        self.first_piece = np.searchsorted(shard_of_piece, np.arange(len(self.shards) + 1))

    def longest_spans(
        self, text: str, minimum_bytes: int = 24, limit: int = 20, occurrences: int = 3, context: int = 80
    ) -> list[Span]:
        """All stretches of `text` that occur in the documents and are part of no longer one, longest first.

        Args:
            minimum_bytes: shorter stretches are left out.
            limit: at most this many spans.
            occurrences: places given per span, the first in the order of the documents.
            context: characters of the document before and after each place.
        Raises:
            AthanorError: the text is longer than the index was built for, or a number is below 1.
        """
        query = encode(text)
        if len(query) > self.longest_query:
            raise AthanorError(
                f"the text has {len(query):,} bytes",
                allowed=f"up to {self.longest_query:,} bytes, as this index was built",
                fix="ask about a part of the text",
            )
        if minimum_bytes < 1 or limit < 1 or occurrences < 1 or context < 0:
            raise AthanorError(
                f"minimum_bytes={minimum_bytes}, limit={limit}, occurrences={occurrences}, context={context}",
                allowed="minimum_bytes, limit and occurrences from 1, context from 0",
            )
        edges = [place for place, byte in enumerate(query) if byte & 0xC0 != 0x80] + [len(query)]
        found = self._maximal_spans(query, edges, minimum_bytes)
        spans = sorted(found, key=lambda span: (span[0] - span[1], span[0]))[:limit]
        return [self._describe(text, query, edges, span, occurrences, context) for span in spans]

    def count(self, text: str) -> int:
        """How often `text` occurs in the documents; 0 for the empty text."""
        query = encode(text)
        return sum(high - low for low, high in (shard.find(query, 0, len(query)) for shard in self.shards))

    def name(self, number: int) -> str:
        """The name of a document."""
        start = self.name_ends[number - 1] if number else 0
        return self.names.read(start, self.name_ends[number]).decode("utf-8", "surrogatepass")

    def read(self, number: int, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of a document, as far as it reaches."""
        parts = []
        row = int(np.searchsorted(self.pieces[:, 0], number))
        while row < len(self.pieces) and self.pieces[row, 0] == number:
            _, begin, length, shard, place, _, _ = (int(value) for value in self.pieces[row])
            low, high = max(start, begin), min(stop, begin + length)
            if low < high:
                parts.append(self.shards[shard].text.read(place + low - begin, place + high - begin))
            row += 1
        return b"".join(parts)

    def _maximal_spans(self, query: bytes, edges: list[int], minimum: int) -> list[tuple[int, int]]:
        """Byte spans of the query that occur, at least `minimum` long and part of no longer one, from left to right.

        A window is the shortest stretch that a new span starting at `first` would have to contain. Where its second
        half does not occur, no span begins before the half's second character: most of a text that was never seen is
        passed over by half windows, at the price of one search each.
        """
        spans: list[tuple[int, int]] = []
        first = reached = 0
        while True:
            last = bisect.bisect_left(edges, max(edges[first] + minimum, reached + 1))
            if last >= len(edges):
                return spans
            middle = (first + last) // 2
            if middle > first and not self._occurs(query, edges[middle], edges[last]):
                first = middle + 1
                continue
            longest = edges[first] + self._longest_prefix(query, edges[first])
            if longest < edges[last]:
                first = self._earliest_start(query, edges, first + 1, middle if middle > first else last, last)
                if edges[last] - edges[first] < minimum:
                    continue
                longest = edges[first] + self._longest_prefix(query, edges[first])
            reached = edges[bisect.bisect_right(edges, longest) - 1]  # back to the end of a character
            spans.append((edges[first], reached))
            first += 1

    def _earliest_start(self, query: bytes, edges: list[int], low: int, high: int, last: int) -> int:
        """The smallest edge from `low` on whose stretch up to the edge `last` occurs; that of `high` does."""
        while low < high:
            middle = (low + high) // 2
            if self._occurs(query, edges[middle], edges[last]):
                high = middle
            else:
                low = middle + 1
        return low

    def _occurs(self, query: bytes, start: int, stop: int) -> bool:
        return any(shard.occurs(query, start, stop) for shard in self.shards)

    def _longest_prefix(self, query: bytes, start: int) -> int:
        """Length of the longest beginning of `query[start:]` that occurs, in bytes."""
        return max((shard.longest_prefix(query, start) for shard in self.shards), default=0)

    def _describe(
        self, text: str, query: bytes, edges: list[int], span: tuple[int, int], wanted: int, context: int
    ) -> Span:
        count = 0
        places: list[Occurrence] = []
        for number, shard in enumerate(self.shards):
            low, high = shard.find(query, *span)
            count += high - low
            if low < high and len(places) < wanted:
                firsts = shard.first_places(low, high, wanted - len(places))
                places += [self._locate(number, place, span[1] - span[0], context) for place in firsts]
        start, end = bisect.bisect_left(edges, span[0]), bisect.bisect_left(edges, span[1])
        return Span(text[start:end], start, end, count, tuple(places))

    def _locate(self, shard: int, place: int, length: int, context: int) -> Occurrence:
        """From a place in a shard's text to document, line and surroundings."""
        rows = self.pieces[self.first_piece[shard] : self.first_piece[shard + 1]]
        row = rows[int(np.searchsorted(rows[:, PIECE.index("place")], place, side="right")) - 1]
        number, start, _, _, piece_place, characters, lines = (int(value) for value in row)
        text = self.shards[shard].text
        for begin in range(piece_place, place, 1 << 20):
            block = text.read(begin, min(begin + (1 << 20), place))
            lines += block.count(b"\n")
            characters += count_characters(block, 0, len(block))
        offset = start + place - piece_place
        before = decode_whole_characters(self.read(number, max(0, offset - 4 * context), offset))
        after = decode_whole_characters(self.read(number, offset + length, offset + length + 4 * context))
        before = before[-context:] if context else ""
        return Occurrence(self.name(number), number, offset, characters, lines + 1, before, after[:context])


class _Shard:
    """One suffix array and its text. Queries are bytes; a stretch of them is given by start and stop, never copied."""

    def __init__(self, stem: Path, checks: Mapping[str, Sequence[int]]):
        text, suffixes, samples, prefixes = (stem.with_suffix(f".{name}") for name in SHARD_FILES)
        self.text = CheckedFile(text, checks[text.name])
        self._suffixes = CheckedFile(suffixes, checks[suffixes.name])
        self._places, self._seen = memoryview(self._suffixes.data).cast("I"), self._suffixes.seen
        self._samples = CheckedFile(samples, checks[samples.name])
        self._samples.expect()
        self.prefixes = memoryview(read_small(prefixes, checks[prefixes.name][1])).cast("I")

    def suffix(self, number: int) -> int:
        """Where the suffix that is `number`-th in order begins in the text."""
        if not self._seen[number >> PAGE_BITS - 2]:
            self._suffixes.check(4 * number, 4 * number + 4)
        return self._places[number]

    def find(self, query: bytes, start: int, stop: int) -> tuple[int, int]:
        """Range of the suffixes that begin with `query[start:stop]`; (0, 0) for an empty stretch."""
        if start == stop:
            return 0, 0
        low, high = self._bucket(query, start, stop)
        low = self._bound(query, start, stop, low, high, after=False)
        return low, self._bound(query, start, stop, low, high, after=True)

    def first_places(self, low: int, high: int, wanted: int) -> list[int]:
        """The `wanted` smallest places in the text among the suffixes `low` to `high`, ascending."""
        kept = np.empty(0, dtype=np.uint32)
        for begin in range(low, high, SORTED_AT_ONCE):
            end = min(begin + SORTED_AT_ONCE, high)
            block = np.frombuffer(self._suffixes.read(4 * begin, 4 * end), dtype="<u4")
            kept = np.concatenate((kept, block))
            kept = np.sort(np.partition(kept, wanted - 1)[:wanted] if len(kept) > wanted else kept)
        return [int(place) for place in kept]

    def occurs(self, query: bytes, start: int, stop: int) -> bool:
        """Whether the stretch `query[start:stop]`, not empty, begins a suffix of this shard."""
        low, high = self._bucket(query, start, stop)
        place = self._bound(query, start, stop, low, high, after=False)
        return place < high and self._compare(query, start, stop, self.suffix(place), 0)[0] == 0

    def longest_prefix(self, query: bytes, start: int) -> int:
        """Length of the longest beginning of `query[start:]` that occurs here, in bytes."""
        low, high = self._bucket(query, start, len(query))
        if low == high:
            low, high = self._bucket(query, start, start + 1)
            return int(low < high)
        place = self._bound(query, start, len(query), low, high, after=False)
        neighbours = [self.suffix(near) for near in (place - 1, place) if low <= near < high]
        return max(self._common(query, start, near) for near in neighbours)

    def _bucket(self, query: bytes, start: int, stop: int) -> tuple[int, int]:
        """Range of the suffixes that share the stretch's first two bytes, or its only one."""
        if stop - start >= 2:
            key = query[start] * 256 + query[start + 1]
            return self.prefixes[key], self.prefixes[key + 1]
        return self.prefixes[query[start] * 256], self.prefixes[query[start] * 256 + 256]

    def _bound(self, query: bytes, start: int, stop: int, low: int, high: int, after: bool) -> int:
        """First suffix in the range that is not below the stretch, or, `after`, that is above all that begin with it.

        Both ends remember how many bytes they surely share with the stretch; all between share the smaller number.
        """
        low, high = self._between_samples(query[start : min(stop, start + SAMPLE)], low, high)
        known_low = known_high = 0
        while low < high:
            middle = (low + high) // 2
            order, known = self._compare(query, start, stop, self.suffix(middle), min(known_low, known_high))
            if order < 0 or (after and order == 0):
                low, known_low = middle + 1, known
            else:
                high, known_high = middle, known
        return low

    def _between_samples(self, beginning: bytes, low: int, high: int) -> tuple[int, int]:
        """A part of the range that holds the bounds of what has this beginning: two pages of suffixes where it is rare.

        Samples below it are of suffixes below both bounds, those above it of suffixes above.
        """
        size = len(beginning)
        first = least = -(-low // SAMPLED)
        after = most = -(-high // SAMPLED)
        while first < most:  # the first sample that is not below
            middle = (first + most) // 2
            if self._samples.read(SAMPLE * middle, SAMPLE * middle + size) < beginning:
                first = middle + 1
            else:
                most = middle
        most = after
        after = first
        while after < most:  # the first that is above
            middle = (after + most) // 2
            if self._samples.read(SAMPLE * middle, SAMPLE * middle + size) <= beginning:
                after = middle + 1
            else:
                most = middle
        return max(low, (first - 1) * SAMPLED + 1) if first > least else low, min(high, after * SAMPLED)

    def _compare(self, query: bytes, start: int, stop: int, place: int, known: int) -> tuple[int, int]:
        """(-1, 0 or 1, equal bytes for sure): the suffix at `place` below, beginning with, or above the stretch."""
        text, size, length = self.text, FIRST_COMPARED, stop - start
        while known < length:
            end = min(known + size, length)
            wanted, given = query[start + known : start + end], text.read(place + known, place + end)
            if given != wanted:
                return (-1 if given < wanted else 1), known
            known, size = end, size * 8
        return 0, length

    def _common(self, query: bytes, start: int, place: int) -> int:
        """How many bytes `query[start:]` and the suffix at `place` share at their beginning."""
        known, size = 0, FIRST_COMPARED
        while wanted := query[start + known : start + known + size]:
            given = self.text.read(place + known, place + known + len(wanted))
            if given == wanted:
                known, size = known + len(wanted), size * 8
            elif size == FIRST_COMPARED:
                pairs = enumerate(zip(wanted, given, strict=False))
                return known + next((place for place, (one, other) in pairs if one != other), len(given))
            else:
                size = FIRST_COMPARED
        return known
