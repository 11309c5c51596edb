"""SentencePiece's ids to the letter, for tokenizers whose models are used with SentencePiece itself.

The `tokenizers` library adds scores in 64 bits where SentencePiece keeps 32, finds the names of bytes in text, and
treats characters in its own way (`charsmap.py`): about one line of a thousand gets other ids. What `transformers` runs
by that library (T5, XLM-R, LLaMA …) we run by it too; what runs by SentencePiece there (M2M-100), in a model's own code
(ChatGLM) or anywhere else comes here.
"""

import re
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path

import tokenizers
from tokenizers import models

from athanor.base.errors import AthanorError
from athanor.tokens import marian
from athanor.tokens.charsmap import Normalizer
from athanor.tokens.sentencepiece import BPE, BYTE, NORMAL, UNUSED, USER_DEFINED, SentencePieceModel

FILE = "tokenizer.model"
BONUS = 0.1  # what each further byte of a symbol of the model's own is worth, measured on sentencepiece 0.2.3
PENALTY = 10.0  # what an unknown character costs beyond the least likely piece
NEWLINE, TAB, MOST_BLANKS = "<n>", "<|tab|>", 80  # how ChatGLM-6B spells white space


class PieceEncoder:
    """Text to ids as SentencePiece does it, with a dialect's preparation of the text before.

    Args:
        data: the model file's bytes.
        dialect: "plain"; "chatglm": line ends, tabs and runs of spaces are spelled as pieces first; "marian": see
            `marian`, what is unknown is looked up by its letters.
        id_of: a piece's id, where it is not its place in the file.

    Raises:
        AthanorError: the model cannot be run exactly.
    """

    def __init__(self, data: bytes, dialect: str = "plain", id_of: Callable[[str], int | None] | None = None):
        self.data, self.dialect = data, dialect
        model = SentencePieceModel.parse(data, Path(FILE))
        symbols = [piece.text for piece in model.pieces if piece.kind == USER_DEFINED]
        _refuse(model, symbols, dialect)
        self.symbols = frozenset(symbols)
        try:
            self.normalize = Normalizer(model.characters, symbols, model.dummy_prefix, model.trim)
        except (ValueError, IndexError) as problem:
            raise AthanorError(f"{FILE} is no SentencePiece model: {problem}", fix="copy it again") from problem
        ids = [index if id_of is None else id_of(piece.text) for index, piece in enumerate(model.pieces)]
        self.id_of: Callable[[str], int | None] | None = None
        if dialect == "marian" and id_of is not None:
            self.id_of, unknown = id_of, id_of(marian.NAMES["unk"])
            ids = [unknown if index is None else index for index in ids]
        missing = [piece.text for piece, index in zip(model.pieces, ids, strict=True) if index is None]
        if missing:
            raise AthanorError(f"{FILE}: the vocabulary has no id for the piece {missing[0]!r}",
                               fix="the files do not belong together: copy them again")  # fmt: skip
        known = [index for index in ids if index is not None]
        named = None if self.id_of is None else self._spelled
        self.cut = _merging(model, known, symbols, named) if model.kind == BPE else Unigram(model, known, named)

    def encode(self, text: str) -> list[int]:
        """Token ids of ordinary text."""
        if self.dialect == "chatglm":
            text = spell_spaces(text)
        if self.id_of is not None:
            code, text = marian.language_of(text)
            first = [] if code is None else [self._spelled(code)]
            return [*first, *self.cut(self.normalize(text))]
        return self.cut(self.normalize(text))

    def _spelled(self, letters: str) -> int:
        """The id of what the vocabulary spells like this, special tokens apart; else that of the unknown."""
        assert self.id_of is not None
        found = None if letters in marian.NAMES.values() else self.id_of(letters)
        unknown = self.id_of(marian.NAMES["unk"]) if found is None else found
        assert unknown is not None  # `marian.from_source` has looked for it
        return unknown


def spell_spaces(text: str) -> str:
    """ChatGLM-6B's spelling of white space, as its code replaces it: the longest runs of spaces first."""
    text = text.replace("\n", NEWLINE).replace("\t", TAB)
    if "  " not in text:
        return text
    for count in range(MOST_BLANKS, 1, -1):
        text = text.replace(" " * count, f"<|blank_{count}|>")
    return text


def _refuse(model: SentencePieceModel, symbols: list[str], dialect: str) -> None:
    if any(piece.kind == UNUSED for piece in model.pieces):
        raise AthanorError(
            f"{FILE} holds unused pieces, which are cut again into others", allowed="a model without them"
        )
    if model.trim and any(" " in symbol for symbol in symbols):
        raise AthanorError(f"{FILE} drops runs of spaces, and has symbols of its own with spaces in them")
    texts = {piece.text for piece in model.pieces if piece.kind == NORMAL}
    letter = min((one for text in texts for one in text if one not in texts), default=None)
    if model.kind == BPE and letter is not None:
        raise AthanorError(f"{FILE} has pieces with {letter!r} in them, but no piece for that letter to merge from")
    wanted = (NEWLINE, TAB, *(f"<|blank_{count}|>" for count in range(2, MOST_BLANKS + 1)))
    missing = set(wanted) - {piece.text for piece in model.pieces} if dialect == "chatglm" else set()
    if missing:
        raise AthanorError(f"ChatGLMTokenizer writes white space as {min(missing)}, which its model does not have",
                           fix="copy ice_text.model again")  # fmt: skip


def _merging(
    model: SentencePieceModel, ids: list[int], symbols: list[str], named: Callable[[str], int] | None
) -> Callable[[str], list[int]]:
    """BPE by the `tokenizers` library, which merges alike: the model's own symbols are added tokens.

    Args:
        named: gives the id of a run of unknown characters; None: they have one id together.
    """
    usual = {NORMAL, USER_DEFINED, BYTE}
    vocabulary = {
        piece.text: index for index, piece in enumerate(model.pieces)
        if piece.kind in usual or index == model.unknown_id
    }  # fmt: skip
    unknown = model.pieces[model.unknown_id].text
    core = tokenizers.Tokenizer(models.BPE(
        vocab=vocabulary, merges=model.merges(), unk_token=unknown, fuse_unk=True, byte_fallback=model.byte_fallback
    ))  # fmt: skip
    core.add_tokens([tokenizers.AddedToken(symbol, normalized=False) for symbol in symbols])

    def cut(text: str) -> list[int]:
        return [ids[index] for index in core.encode(text, add_special_tokens=False).ids]

    def cut_and_name(text: str) -> list[int]:
        found = core.encode(text, add_special_tokens=False)
        return [
            named(text[slice(*place)]) if named and index == model.unknown_id else ids[index]
            for index, place in zip(found.ids, found.offsets, strict=True)
        ]

    return cut if named is None else cut_and_name


class Unigram:
    """The likeliest pieces of a text: `Model::EncodeOptimized` of google/sentencepiece, its roundings included.

    Sums of scores are rounded to 32 bits, and of equal ones the first stays, which begins furthest to the left.
    """

    def __init__(self, model: SentencePieceModel, ids: list[int], named: Callable[[str], int] | None = None):
        self.named = named
        usual = [piece.score for piece in model.pieces if piece.kind == NORMAL]
        self.unknown_score = single(min(usual, default=0.0) - PENALTY)
        self.unknown = ids[model.unknown_id]
        self.scores: dict[str, tuple[float, int]] = {}
        for piece, index in zip(model.pieces, ids, strict=True):
            if piece.kind == USER_DEFINED:  # better than any likelihood, the longer the better
                self.scores[piece.text] = single(BONUS * len(piece.text.encode()) - BONUS), index
            elif piece.kind == NORMAL:
                self.scores[piece.text] = piece.score, index
        self.begins = {text[:size] for text in self.scores for size in range(1, len(text))}
        self.bytes = _byte_ids(model, ids) if model.byte_fallback else None

    def __call__(self, text: str) -> list[int]:
        best, rounded = array("f", bytes(4 * (len(text) + 1))), array("f", [0.0])
        start, chosen = [-1] * (len(text) + 1), [0] * (len(text) + 1)
        scores, begins, size = self.scores, self.begins, len(text)
        for place in range(size):
            here, end, alone = best[place], place + 1, False
            while end <= size:
                found = text[place:end]
                row = scores.get(found)
                if row is not None:
                    rounded[0] = here + row[0]
                    if start[end] < 0 or rounded[0] > best[end]:
                        best[end], start[end], chosen[end] = rounded[0], place, row[1]
                    alone = alone or end == place + 1
                if found not in begins:
                    break
                end += 1
            if not alone:
                rounded[0], end = here + self.unknown_score, place + 1
                if start[end] < 0 or rounded[0] > best[end]:
                    best[end], start[end], chosen[end] = rounded[0], place, -1
        return self._read(text, start, chosen)

    def _read(self, text: str, start: list[int], chosen: list[int]) -> list[int]:
        """The ids from the last piece back to the first; unknown characters become bytes, or one id together."""
        ids: list[int] = []
        end, unknown = len(text), 0  # unknown: where the run ends that is being read
        while end:
            if chosen[end] >= 0:
                ids.append(chosen[end])
                unknown = 0
            elif self.bytes is not None:
                ids += [self.bytes[byte] for byte in reversed(text[start[end] : end].encode())]
            else:
                if not unknown:
                    unknown = end
                    ids.append(self.unknown)
                if self.named is not None:
                    ids[-1] = self.named(text[start[end] : unknown])
            end = start[end]
        return ids[::-1]


def single(number: float) -> float:
    """A number as 32 bits keep it."""
    return array("f", [number])[0]


def _byte_ids(model: SentencePieceModel, ids: list[int]) -> list[int]:
    place = {piece.text: index for piece, index in zip(model.pieces, ids, strict=True) if piece.kind == BYTE}
    missing = [byte for byte in range(256) if f"<0x{byte:02X}>" not in place]
    if missing:
        raise AthanorError(f"{FILE} falls back on bytes, but has no piece for {missing[0]:#x}", fix="copy it again")
    return [place[f"<0x{byte:02X}>"] for byte in range(256)]


class AroundTokens:
    """A text cut at added tokens, the longest where several begin; what stands between goes to the encoder.

    Args:
        tokens: their ids.
    """

    def __init__(self, encoder: PieceEncoder, tokens: Mapping[str, int]):
        self.encoder, self.tokens = encoder, tokens
        self.found = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")

    def encode(self, text: str) -> list[int]:
        """Token ids."""
        ids: list[int] = []
        done = 0
        for found in self.found.finditer(text):
            ids += [*self.encoder.encode(text[done : found.start()]), self.tokens[found.group()]]
            done = found.end()
        return [*ids, *self.encoder.encode(text[done:])]
