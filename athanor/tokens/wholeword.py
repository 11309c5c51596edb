"""Where words begin among tokens: for hiding whole words.

A token goes on with the word before it when it begins in the middle of a character, or with a letter or digit right
behind another. Chinese and Japanese characters are words of their own, as in BERT's tokenizer; they have no spaces
between words that could tell more.

Shapes: T tokens of a row, N bytes, C characters of its text.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from athanor.tokens.tokenizer import Tokenizer

Flags = NDArray[np.bool_]
CHARACTERS = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))


class WordEdges:
    """Knows the bytes of every token of a vocabulary."""

    def __init__(self, tokenizer: Tokenizer):
        self.bytes_V = tokenizer.token_bytes()

    def begins(self, ids_T: NDArray[np.int64], documents_T: NDArray[np.int64]) -> Flags:
        """(T,): whether a word begins at each token; special tokens and new documents always part words."""
        pieces = [self.bytes_V[index] for index in ids_T.tolist()]
        text = b"".join(pieces).decode("utf-8", "surrogateescape")  # half a character is one for each of its bytes
        sizes_C = [len(letter.encode("utf-8", "surrogateescape")) for letter in text]
        letter_C = np.array([False, *map(_is_letter, text), False])
        number_N = np.repeat(np.arange(len(text)), sizes_C)
        inside_N = np.append(np.diff(number_N, prepend=-1) == 0, False)
        sizes_T = np.array([len(piece) for piece in pieces])
        starts_T = np.cumsum(sizes_T) - sizes_T
        here_T = np.append(number_N, len(text))[starts_T]  # of the character; letter_C counts from the one before
        goes_on_T = inside_N[starts_T] | (letter_C[here_T] & letter_C[here_T + 1])
        parted_T = (sizes_T == 0) | (np.append(0, sizes_T[:-1]) == 0)
        parted_T[1:] |= documents_T[1:] != documents_T[:-1]
        return ~goes_on_T | parted_T


@lru_cache(maxsize=1 << 16)
def _is_letter(letter: str) -> bool:
    """Whether a character is part of a word that may have others."""
    return letter.isalnum() and not any(first <= ord(letter) <= last for first, last in CHARACTERS)
