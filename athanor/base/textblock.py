"""Many texts as one block of UTF-8: what the C library and numpy work on.

Shapes: D texts, B bytes of all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TextBlock:
    """Texts one behind the other.

    Attributes:
        data_B: their bytes.
        ends_D: where each text ends.
    """

    data_B: NDArray[np.uint8]
    ends_D: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[str]) -> "TextBlock":
        """The block of these texts.

        Raises:
            UnicodeEncodeError: a text holds half a surrogate pair, which is no character.
        """
        return cls.of_bytes([text.encode() for text in texts])

    @classmethod
    def of_bytes(cls, encoded: Sequence[bytes]) -> "TextBlock":
        """The block of texts in UTF-8."""
        data_B = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        return cls(data_B, np.cumsum(np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))))

    def __len__(self) -> int:
        return len(self.ends_D)

    @property
    def sizes_D(self) -> NDArray[np.int64]:
        """Bytes of each text."""
        return np.diff(self.ends_D, prepend=0)

    def encoded(self, number: int) -> bytes:
        """One text's bytes."""
        return self.data_B[self.ends_D[number - 1] if number else 0 : self.ends_D[number]].tobytes()

    def text(self, number: int) -> str:
        """One text."""
        return self.encoded(number).decode()

    def texts(self) -> list[str]:
        """All texts."""
        return [self.text(number) for number in range(len(self))]
