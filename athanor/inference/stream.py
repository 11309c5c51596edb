"""From token ids to pieces of text: whole characters only, and never a part of a stop string."""

import codecs
from collections.abc import Sequence


class TextStream:
    """Turns tokens into text that can be shown at once.

    A character whose bytes are not all there is held back, and so is text that may yet become a stop string.

    Args:
        token_bytes: the bytes of every token id; special tokens have none.
        stop: strings that end the text; what follows them, and they themselves, are dropped.
    """

    def __init__(self, token_bytes: Sequence[bytes], stop: Sequence[str] = ()):
        self.token_bytes, self.stop = token_bytes, tuple(stop)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.held, self.stopped = "", False
        self.shown: list[str] = []

    @property
    def text(self) -> str:
        """All that was shown so far."""
        return "".join(self.shown)

    def push(self, token: int) -> str:
        """Take one token; the text that became certain. `stopped` turns True when a stop string is complete."""
        if self.stopped:
            return ""
        self.held += self.decoder.decode(self.token_bytes[token])
        places = [place for one in self.stop if (place := self.held.find(one)) >= 0]
        if places:
            self.stopped = True
            return self._show(min(places))
        return self._show(len(self.held) - self._undecided())

    def finish(self) -> str:
        """The rest, when no more tokens come; broken characters become U+FFFD."""
        if self.stopped:
            return ""
        self.held += self.decoder.decode(b"", final=True)
        return self._show(len(self.held))

    def _show(self, length: int) -> str:
        piece, self.held = self.held[:length], self.held[length:]
        self.shown.append(piece)
        return piece

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(one) for one in self.stop), default=1) - 1
        for length in range(min(longest, len(self.held)), 0, -1):
            if any(one.startswith(self.held[-length:]) for one in self.stop):
                return length
        return 0


def decode_so_far(token_bytes: Sequence[bytes], ids: Sequence[int], final: bool = False) -> str:
    """The text of tokens; an unfinished character at the end is left out, or U+FFFD when `final`."""
    data = b"".join(token_bytes[token] for token in ids)
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data, final=final)
