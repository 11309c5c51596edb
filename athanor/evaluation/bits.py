"""Bits per byte on held-out documents, beside a compressor's on the same bytes."""

import lzma
import math
from collections.abc import Sequence

from athanor.base.progress import Progress
from athanor.evaluation.statistics import Estimate, ratio
from athanor.evaluation.subject import LocalSubject


def bits_per_byte(subject: LocalSubject, texts: Sequence[str], progress: Progress | None = None) -> Estimate:
    """Cross-entropy in bits over UTF-8 bytes, summed over all documents; lower is better.

    A tokenizer cannot win by cutting text differently: the unit is the byte. The interval is over documents.
    """
    nats = [-value for value in subject.score(texts, progress)]
    return ratio([value / math.log(2) for value in nats], [len(text.encode()) for text in texts])


def lzma_bits_per_byte(texts: Sequence[str]) -> float:
    """What xz at its strongest setting needs for the same documents in one stream, the form that suits it best."""
    data = "".join(texts).encode()
    return 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / max(1, len(data))
