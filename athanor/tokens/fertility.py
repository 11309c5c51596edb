"""How well a tokenizer serves each language: what a text costs in tokens, and what it loses.

Fertility is the number of tokens per word (Rust et al. 2021, "How Good is Your Tokenizer?"); in scripts written without
spaces every character counts as a word.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from athanor.base.errors import AthanorError
from athanor.base.tables import text_table
from athanor.tokens.tokenizer import Tokenizer

# Scripts written without spaces: Thai, Lao, Myanmar, Khmer, kana, Chinese characters.
UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
ALL = "all"
HEADER = (
    "language", "texts", "bytes/token", "characters/token", "tokens/word", "unknown", "parts of characters",
    "vocabulary used",
)  # fmt: skip


@dataclass(frozen=True)
class Fertility:
    """Counts of one language, or of all together.

    Attributes:
        words: runs between spaces with a letter or digit in them; single characters in scripts without spaces.
        unknown: tokens that stand for what the vocabulary does not have: lost.
        partial: tokens that hold a part of a character only, or a single byte in place of an unknown character.
        used: different token ids that occur.
        vocabulary: token ids there are.
    """

    language: str
    texts: int
    bytes: int
    characters: int
    words: int
    tokens: int
    unknown: int
    partial: int
    used: int
    vocabulary: int

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / max(1, self.tokens)

    @property
    def characters_per_token(self) -> float:
        return self.characters / max(1, self.tokens)

    @property
    def tokens_per_word(self) -> float:
        return self.tokens / max(1, self.words)

    @property
    def unknown_share(self) -> float:
        return self.unknown / max(1, self.tokens)

    @property
    def partial_share(self) -> float:
        return self.partial / max(1, self.tokens)

    @property
    def vocabulary_share(self) -> float:
        return self.used / max(1, self.vocabulary)

    def as_row(self) -> dict[str, Any]:
        """The figures for machines, shares rounded to four digits."""
        return {
            "language": self.language, "texts": self.texts, "bytes": self.bytes, "characters": self.characters,
            "words": self.words, "tokens": self.tokens, "bytes_per_token": round(self.bytes_per_token, 4),
            "characters_per_token": round(self.characters_per_token, 4),
            "tokens_per_word": round(self.tokens_per_word, 4), "unknown_share": round(self.unknown_share, 4),
            "partial_share": round(self.partial_share, 4), "vocabulary_share": round(self.vocabulary_share, 4),
        }  # fmt: skip


def report(tokenizer: Tokenizer, texts: Mapping[str, Iterable[str]]) -> list[Fertility]:
    """One row per language, in the order given, and one for all together where there are several.

    Raises:
        AthanorError: there is no text.
    """
    unknown = tokenizer.special.get(tokenizer.unk) if tokenizer.unk else None
    partial = _partial(tokenizer)
    rows: list[Fertility] = []
    total_V = np.zeros(len(partial), np.int64)
    for language, documents in texts.items():
        row, used_V = _measure(tokenizer, language, documents, unknown, partial)
        rows.append(row)
        total_V += used_V
    if not sum(row.tokens for row in rows):
        raise AthanorError("there is no text to measure the tokenizer on", fix="name files with text in them")
    if len(rows) > 1:
        sums = {
            name: sum(getattr(row, name) for row in rows)
            for name in ("texts", "bytes", "characters", "words", "tokens", "unknown", "partial")
        }
        rows.append(Fertility(ALL, **sums, used=int((total_V > 0).sum()), vocabulary=tokenizer.vocabulary))
    return rows


def report_table(rows: Sequence[Fertility]) -> str:
    """The rows as people read them."""
    return text_table(HEADER, [
        (
            row.language, row.texts, f"{row.bytes_per_token:.2f}", f"{row.characters_per_token:.2f}",
            f"{row.tokens_per_word:.2f}", f"{row.unknown_share:.2%}", f"{row.partial_share:.2%}",
            f"{row.vocabulary_share:.1%}",
        )
        for row in rows
    ])  # fmt: skip


def count_words(text: str) -> int:
    """Words of a text: see `Fertility.words`."""
    return sum(any(letter.isalnum() for letter in word) for word in WORD.findall(text))


def _measure(
    tokenizer: Tokenizer, language: str, documents: Iterable[str], unknown: int | None, partial: np.ndarray
) -> tuple[Fertility, np.ndarray]:
    count = size = characters = words = 0
    used_V = np.zeros(len(partial), np.int64)

    def read() -> Iterable[str]:
        nonlocal count, size, characters, words
        for text in documents:
            count += 1
            size += len(text.encode())
            characters += len(text)
            words += count_words(text)
            yield text

    for ids in tokenizer.encode_corpus(read()):
        used_V += np.bincount(ids, minlength=len(partial))
    row = Fertility(
        language, count, size, characters, words, tokens=int(used_V.sum()),
        unknown=0 if unknown is None else int(used_V[unknown]), partial=int(used_V[partial].sum()),
        used=int((used_V > 0).sum()), vocabulary=tokenizer.vocabulary,
    )  # fmt: skip
    return row, used_V


def _partial(tokenizer: Tokenizer) -> np.ndarray:
    """Which ids hold a part of a character or stand for a single byte, (V,)."""
    table = tokenizer.token_bytes()
    broken = [not _is_text(data) for data in table]
    for token, index in tokenizer.core.get_vocab().items():
        if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            broken[index] = True
    return np.array(broken, bool)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
