"""Reads SentencePiece's model files (spiece.model, tokenizer.model) without the library.

The file is one protocol-buffer message, `ModelProto` (google/sentencepiece, `src/sentencepiece_model.proto`): pieces
with scores and kinds, how the model was trained, and how text is normalised before it. We read only what changes ids.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from athanor.base.errors import AthanorError

UNIGRAM, BPE = 1, 2  # TrainerSpec.model_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # SentencePiece.type
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5  # wire types
SPACE = "\u2581"


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its place is its id."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """What a model file says.

    Attributes:
        kind: UNIGRAM or BPE.
        characters: the compiled table that normalises characters (`precompiled_charsmap`); empty: text stays as it is.
        dummy_prefix: a space is put in front of the text.
        trim: spaces at both ends are dropped and runs of spaces become one.
    """

    pieces: list[Piece]
    kind: int
    unknown_id: int
    byte_fallback: bool
    characters: bytes
    dummy_prefix: bool
    trim: bool
    names: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> "SentencePieceModel":
        """Read a model file.

        Raises:
            AthanorError: the file is damaged, or of a kind that has no ids of its own (word, character).
        """
        return cls.parse(path.read_bytes(), path)

    @classmethod
    def parse(cls, data: bytes, path: Path) -> "SentencePieceModel":
        """Read a model file's bytes; the path is for messages."""
        try:
            return cls._parse(data, path)
        except (ValueError, struct.error) as problem:
            raise AthanorError(f"{path} is no SentencePiece model: {problem}", fix="copy it again") from problem

    @classmethod
    def _parse(cls, data: bytes, path: Path) -> "SentencePieceModel":
        pieces: list[Piece] = []
        training: dict[int, int | bytes] = {}
        normalising: dict[int, int | bytes] = {}
        for field, value in _fields(data):
            if field == 1 and isinstance(value, bytes):
                pieces.append(_piece(value))
            elif field == 2 and isinstance(value, bytes):
                training.update(_fields(value))
            elif field == 3 and isinstance(value, bytes):
                normalising.update(_fields(value))
        if not pieces:
            raise ValueError("it holds no pieces")
        kind = _number(training, 3, UNIGRAM)
        if kind not in (UNIGRAM, BPE):
            raise AthanorError(f"{path} holds a SentencePiece model of type {kind}", allowed="unigram (1) or BPE (2)")
        if _number(training, 24, 0):
            raise AthanorError(f"{path} writes spaces behind words", allowed="treat_whitespace_as_suffix=false")
        names = {"unk": (40, 45, "<unk>", 0), "bos": (41, 46, "<s>", 1), "eos": (42, 47, "</s>", 2),
                 "pad": (43, 48, "<pad>", -1)}  # fmt: skip
        named = {
            name: _text(training, spelling, usual)
            for name, (place, spelling, usual, where) in names.items()
            if _number(training, place, where) >= 0
        }
        return cls(
            pieces, kind, _number(training, 40, 0), bool(_number(training, 35, 0)), _bytes(normalising, 2),
            bool(_number(normalising, 3, 1)), bool(_number(normalising, 4, 1)), named,
        )  # fmt: skip

    def merges(self) -> list[tuple[str, str]]:
        """The merges that a BPE model stands for: every way to make a piece of two others, better pieces first.

        SentencePiece merges the pair whose piece has the best score; of equal ones the first.
        """
        usual = [piece for piece in self.pieces if piece.kind in (NORMAL, USER_DEFINED, UNUSED)]
        return merges_by_rank(
            {piece.text: rank for rank, piece in enumerate(sorted(usual, key=lambda one: -one.score))}
        )


def merges_by_rank(ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """All pairs of known pieces that make a known piece, in order of its id, then by length of the left part."""
    merges: list[tuple[int, int, int, str, str]] = []
    for text, rank in ids.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in ids and right in ids:
                merges.append((rank, len(left), len(right), left, right))
    return [(left, right) for *_, left, right in sorted(merges)]


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    score = struct.unpack("<f", _bytes(fields, 2))[0] if 2 in fields else 0.0
    return Piece(_bytes(fields, 1).decode("utf-8"), score, _number(fields, 3, NORMAL))


def appended(data: bytes, pieces: Iterable[Piece]) -> bytes:
    """A model file with more pieces behind its own, some of which stand for bytes: messages are joined by writing one
    behind the other."""
    return b"".join([data, *map(_piece_bytes, pieces), b"\x12\x03\x98\x02\x01"])  # trainer_spec.byte_fallback = true


def unigram_file(pieces: Iterable[Piece], unknown: int, characters: bytes) -> bytes:
    """A model file of unigrams that puts a space before the text and makes runs of spaces one.

    Args:
        unknown: place of the piece that stands for what is unknown.
        characters: see `SentencePieceModel`.
    """
    training = b"\x18\x01\xc0\x02" + _number_bytes(unknown)  # model_type = UNIGRAM, unk_id
    normalising = (b"\x12" + _sized(characters) if characters else b"") + b"\x18\x01\x20\x01"
    return b"".join([*map(_piece_bytes, pieces), b"\x12" + _sized(training), b"\x1a" + _sized(normalising)])


def _piece_bytes(piece: Piece) -> bytes:
    score = struct.pack("<f", piece.score)
    return b"\x0a" + _sized(b"\x0a" + _sized(piece.text.encode()) + b"\x15" + score + b"\x18" + bytes([piece.kind]))


def _sized(data: bytes) -> bytes:
    return _number_bytes(len(data)) + data


def _number_bytes(number: int) -> bytes:
    """A number as protocol buffers write it: seven bits to a byte, the lowest first."""
    parts = []
    while number >= 128:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a message; numbers of fixed size come as their bytes."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        wire = key & 7
        if wire == VARINT:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        if wire == LENGTH:
            size, place = _varint(data, place)
        elif wire in (FOUR_BYTES, EIGHT_BYTES):
            size = 4 if wire == FOUR_BYTES else 8
        else:
            raise ValueError(f"wire type {wire} at byte {place}")
        if place + size > len(data):
            raise ValueError("it ends in the middle of a field")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if place >= len(data) or shift > 63:
            raise ValueError("it ends in the middle of a number")
        byte = data[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place


def _number(fields: Mapping[int, int | bytes], field: int, default: int) -> int:
    value = fields.get(field, default)
    if not isinstance(value, int):
        raise ValueError(f"field {field} is no number")
    return value - (1 << 64) if value >= 1 << 63 else value  # negative numbers are written as 64-bit two's complement


def _bytes(fields: Mapping[int, int | bytes], field: int) -> bytes:
    value = fields.get(field, b"")
    if not isinstance(value, bytes):
        raise ValueError(f"field {field} holds no bytes")
    return value


def _text(fields: Mapping[int, int | bytes], field: int, default: str) -> str:
    return _bytes(fields, field).decode("utf-8") if field in fields else default
