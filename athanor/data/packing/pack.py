"""The step `pack`: a corpus becomes token shards that training maps into memory, with a table of its documents.

Files for each split (train, heldout): `<split>-00000.npy` … (token ids, uint16 or uint32), `<split>-starts.npy`
(int64, the place of each document's first token, and one last entry: the number of tokens) and
`<split>-documents.jsonl.zst` (id, source, language, bytes, characters, in the same order).

Shapes: N tokens, D documents.
"""

import bisect
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from athanor.base import native
from athanor.base.errors import AthanorError
from athanor.base.files import explain_disk_error
from athanor.base.parallel import in_threads, processors
from athanor.base.progress import Progress
from athanor.base.records import open_compressed, read_records
from athanor.base.settings import Settings
from athanor.base.workers import current
from athanor.data.document import Document
from athanor.data.funnel import Funnel, Stage
from athanor.data.lines import Piece, as_block, read_lines, whole_lines
from athanor.data.packing.table import document_rows, table_row
from athanor.data.shards import read_shards, shard_names
from athanor.store.artifact import Artifact
from athanor.tokens.compiled import CompiledEncoder
from athanor.tokens.tokenizer import DOCUMENT, Tokenizer

SPLITS = ("train", "heldout")
SMALL_VOCABULARY = 1 << 16  # ids below it fit into two bytes
MEGA = 1e6
Places = NDArray[np.int64]
Packed = tuple[NDArray[np.uint32], Places, bytes, int]
"""Of some documents: the ids, where those of each end, rows of the table, bytes of text."""


class PackSettings(Settings):
    """How tokens are stored."""

    shard_tokens: int = Field(default=64_000_000, ge=1_024)
    """Tokens per file."""


class TokenWriter:
    """Writes one split's token shards; holds the tokens of one shard in memory."""

    def __init__(self, folder: Path, split: str, dtype: type[np.unsignedinteger], shard_tokens: int):
        self.folder, self.split, self.shard_tokens = folder, split, shard_tokens
        self.tokens = self.shards = 0
        self._shard: NDArray[np.unsignedinteger] = np.empty(shard_tokens, dtype)  # untouched pages take no memory
        self._filled = 0

    def write(self, ids: NDArray[np.unsignedinteger]) -> None:
        """Append tokens; a shard may end inside a document."""
        place, count = 0, len(ids)
        self.tokens += count
        while place < count:
            piece = ids[place : place + self.shard_tokens - self._filled]
            self._shard[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            place += len(piece)
            if self._filled == self.shard_tokens:
                self._save()

    def close(self) -> None:
        """Write what waits."""
        if self._filled or not self.shards:
            self._save()

    def _save(self) -> None:
        path = self.folder / f"{self.split}-{self.shards:05d}.npy"
        try:
            np.save(path, self._shard[: self._filled])
        except OSError as problem:
            raise explain_disk_error(problem, path) from problem
        self.shards += 1
        self._filled = 0


def pack_documents(
    settings: PackSettings, parents: Mapping[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Tokenise `parents["corpus"]` with `parents["tokenizer"]`; every document begins with the tokenizer's mark.

    Raises:
        AthanorError: the corpus holds no text, or the tokenizer has no token that a document could begin with.
    """
    corpus, tokenizer = parents["corpus"], Tokenizer.load(parents["tokenizer"].file("tokenizer.json").parent)
    mark = document_mark(tokenizer)
    largest = max(tokenizer.core.get_vocab().values())  # of another model's tokenizer, ids may have gaps
    dtype = np.uint16 if largest < SMALL_VOCABULARY else np.uint32
    known = corpus.measurements
    total = known.get("text_bytes", 0) + known.get("heldout_bytes", 0)
    progress.start("pack", total=total / MEGA or None, unit="MB")
    funnel, measured = Funnel(*SPLITS), {}
    for split in SPLITS:
        writer = TokenWriter(folder, split, dtype, settings.shard_tokens)
        packed = _packed(corpus, split, tokenizer, mark)
        starts = _write_split(writer, packed, funnel[split], progress)
        np.save(folder / f"{split}-starts.npy", starts)
        measured[split] = (writer.tokens, funnel[split].bytes_out)
    funnel.write(folder)
    progress.finish(tokens=measured["train"][0])
    if not measured["train"][0]:
        raise AthanorError(f"{corpus.path} holds no text to pack", fix="run the step that cleans the corpus again")
    return {
        "tokens": measured["train"][0], "heldout_tokens": measured["heldout"][0],
        "bytes_per_token": round(measured["train"][1] / measured["train"][0], 4),
        "heldout_bytes": measured["heldout"][1], "vocabulary": tokenizer.vocabulary, "dtype": np.dtype(dtype).name,
    }  # fmt: skip


def _write_split(writer: TokenWriter, packed: Iterable[Packed], stage: Stage, progress: Progress) -> Places:
    """Write one split's shards and its table of documents; where each document begins, and the number of tokens."""
    starts: list[Places] = [np.zeros(1, dtype=np.int64)]
    with open_compressed(writer.folder / f"{writer.split}-documents.jsonl.zst") as table:
        for ids_T, ends_D, rows, size in packed:
            starts.append(ends_D + writer.tokens)
            writer.write(ids_T)
            table.write(rows)
            stage.pass_on(len(ends_D), size)
            progress.advance(size / MEGA)
    writer.close()
    return np.concatenate(starts)


def _packed(corpus: Artifact, split: str, tokenizer: Tokenizer, mark: int) -> Iterator[Packed]:
    """The documents of a split, some at a time: by the C library from the shards' bytes where it can, else one by
    one."""
    shards = [corpus.file(name) for name in shard_names(corpus, split)]
    encoder = tokenizer.block_encoder(sum(shard.stat().st_size for shard in shards)) if native.available() else None
    if encoder is None:
        yield from _packed_singly(read_shards(corpus, split), tokenizer, mark)
        return
    pieces, pack = chain.from_iterable(map(whole_lines, shards)), partial(_pack_piece, encoder, mark)
    workers = current()
    if workers.engine == "local":  # the library lets go of the interpreter's lock, so threads do, which copy nothing
        yield from in_threads(pack, pieces, workers.count or processors())
    else:
        yield from workers.map(pack, pieces, Piece.describe)


def _pack_piece(encoder: CompiledEncoder, mark: int, piece: Piece) -> Packed:
    block = piece.read(lambda data: read_lines(data, ("id", "source", "language")))
    texts = as_block(block.texts)
    ids_T, ends_D = encoder.encode_block(texts, mark)
    return ids_T, ends_D, document_rows(block, texts), int(texts.sizes_D.sum())


def _packed_singly(documents: Iterable[Document], tokenizer: Tokenizer, mark: int) -> Iterator[Packed]:
    waiting: deque[tuple[str, int]] = deque()  # row and size of documents that the encoder has read ahead

    def texts() -> Iterator[str]:
        for document in documents:
            waiting.append((table_row(document), document.bytes))
            yield document.text

    for ids_T, ends_D in tokenizer.encode_blocks(texts(), mark):
        some = [waiting.popleft() for _ in ends_D]
        yield ids_T, ends_D, "".join(row for row, _ in some).encode(), sum(size for _, size in some)


def document_mark(tokenizer: Tokenizer) -> int:
    """The id that every document begins with: <|document|>; of another model's tokenizer its beginning, else its end.

    Raises:
        AthanorError: the tokenizer has neither.
    """
    mark = DOCUMENT if tokenizer.native else tokenizer.bos or tokenizer.eos
    if mark is None:
        raise AthanorError(
            "the tokenizer has no token to begin a document with",
            allowed=f"one with {DOCUMENT}, or whose tokenizer_config.json names a bos_token or an eos_token",
            fix='add "bos_token" to the tokenizer_config.json beside it',
        )
    return tokenizer.special[mark]


class TokenFiles:
    """One split of a packed corpus, its tokens mapped into memory.

    Attributes:
        tokens: how many there are.
        starts_D: place of each document's first token (its mark: <|document|>), and at the end the number of tokens.
    """

    def __init__(self, folder: Path, split: str = "train"):
        shards = sorted(folder.glob(f"{split}-[0-9]*.npy"))
        starts = folder / f"{split}-starts.npy"
        if not shards or not starts.is_file():
            raise AthanorError(f"{folder} holds no packed {split} tokens", allowed="the folder of a pack step")
        self.folder, self.split = folder, split
        self.starts_D: NDArray[np.int64] = np.load(starts)
        self._shards = [np.load(shard, mmap_mode="r") for shard in shards]
        self._ends = np.cumsum([len(shard) for shard in self._shards])
        self.tokens = int(self._ends[-1])
        if self.tokens != int(self.starts_D[-1]):
            raise AthanorError(f"{folder}: {split} shards and table do not belong together", fix="pack again")
        self._rows: list[dict[str, Any]] | None = None

    @property
    def documents(self) -> int:
        return len(self.starts_D) - 1

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Token ids from place `start` up to `stop`, as int64; fewer at the end of the corpus."""
        pieces = []
        shard = bisect.bisect_right(self._ends, start)
        while start < stop and shard < len(self._shards):
            begin = int(self._ends[shard]) - len(self._shards[shard])
            piece = self._shards[shard][start - begin : stop - begin]
            pieces.append(piece)
            start += len(piece)
            shard += 1
        return np.concatenate(pieces).astype(np.int64) if pieces else np.zeros(0, np.int64)

    def document_at(self, place: int) -> int:
        """Number of the document that holds the token at `place`."""
        if not 0 <= place < self.tokens:
            raise AthanorError(f"token {place} does not exist", allowed=f"0 to {self.tokens - 1}")
        return int(np.searchsorted(self.starts_D, place, side="right")) - 1

    def document_row(self, number: int) -> dict[str, Any]:
        """The table's row of a document: id, source, language, bytes, characters."""
        if self._rows is None:
            self._rows = list(read_records(self.folder / f"{self.split}-documents.jsonl.zst"))
        return self._rows[number]

    def locate(self, place: int, tokenizer: Tokenizer) -> tuple[dict[str, Any], int]:
        """(the document's row, character offset in its text) of the token at `place`.

        Exact, except that a token beginning inside a character (byte-level tokens may) is given that character.
        """
        number = self.document_at(place)
        first = int(self.starts_D[number]) + 1  # after the document's mark
        before = tokenizer.decode(self.read(first, place).tolist()) if place > first else ""
        return self.document_row(number), len(before.rstrip("\ufffd"))
