"""The number types of ggml that are read only: those that llama.cpp's own tools choose for some tensors of a file.

Blocks of 32 numbers with a float16 scale d, and in the _1 types a float16 minimum m:

    Q4_1  w = q d + m          q of four bits, number j in the low half of byte j, number 16 + j in its high half
    Q5_0  w = (q - 16) d       q of five bits; the fifth bits are a 32-bit integer before the halves
    Q5_1  w = q d + m          the same

Blocks of 256 numbers, whose scales are themselves codes (`ggml/src/ggml-quants.c`, `dequantize_row_…`):

    Q4_K  w = q s d - t m      q of four bits; s and t of six bits for every 32 numbers; d and m float16
    Q5_K  w = q s d - t m      q of five bits; the fifth bits of the eight groups are the bits of one byte
    Q6_K  w = (q - 32) s d     q of six bits, their low four and high two apart; s a signed byte for every 16 numbers

Shape letters: … rows, G blocks.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from athanor.inference.ggml import BLOCK, TYPES, NumberType

LARGE_BLOCK = 256  # numbers
SHIFTS = torch.arange(8, dtype=torch.uint8)


def parts(data: np.ndarray, *sizes: int) -> Iterator[Tensor]:
    """The parts of every block, (..., G, size) each."""
    blocks = torch.from_numpy(np.ascontiguousarray(data)).unflatten(-1, (-1, sum(sizes)))
    return (part.contiguous() for part in blocks.split(sizes, dim=-1))


def half(part: Tensor) -> Tensor:
    """Two bytes as a float16, in float32."""
    return part.view(torch.float16).float()


def fours(codes: Tensor) -> Tensor:
    """(..., C) bytes as (..., 2 C) codes: all low halves, then all high halves."""
    return torch.cat((codes & 15, codes >> 4), dim=-1)


def fifths(bits: Tensor) -> Tensor:
    """(..., 4) bytes of a 32-bit integer as (..., 32) codes: 16 where the bit is set."""
    return ((bits[..., None] >> SHIFTS) & 1).flatten(-2) << 4


def decode_q4_1(data: np.ndarray) -> Tensor:
    """float32 of Q4_1."""
    d, m, codes = parts(data, 2, 2, 16)
    return (fours(codes) * half(d) + half(m)).flatten(-2)


def decode_q5_0(data: np.ndarray) -> Tensor:
    """float32 of Q5_0."""
    d, bits, codes = parts(data, 2, 4, 16)
    return (((fours(codes) | fifths(bits)).float() - 16) * half(d)).flatten(-2)


def decode_q5_1(data: np.ndarray) -> Tensor:
    """float32 of Q5_1."""
    d, m, bits, codes = parts(data, 2, 2, 4, 16)
    return ((fours(codes) | fifths(bits)) * half(d) + half(m)).flatten(-2)


def sixes(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The eight scales and eight minimums of Q4_K and Q5_K, (..., 8) each, from 12 bytes.

    Six bits of each of the first eight bytes are scales 0 to 3 and minimums 0 to 3; their two upper bits are the upper
    bits of scales and minimums 4 to 7, whose lower four are the halves of the last four bytes.
    """
    first, second, last = packed.split(4, dim=-1)
    scales = torch.cat((first & 63, (last & 15) | (first >> 6 << 4)), dim=-1)
    minimums = torch.cat((second & 63, (last >> 4) | (second >> 6 << 4)), dim=-1)
    return scales, minimums


def decode_q4_k(data: np.ndarray) -> Tensor:
    """float32 of Q4_K: the 128 bytes are four times 32, each with two groups of numbers."""
    d, m, packed, codes = parts(data, 2, 2, 12, 128)
    return _scaled(d, m, packed, fours(codes.unflatten(-1, (4, 32))).unflatten(-1, (2, 32)).flatten(-3, -2))


def decode_q5_k(data: np.ndarray) -> Tensor:
    """float32 of Q5_K: Q4_K, and a byte for every place in the eight groups."""
    d, m, packed, bits, codes = parts(data, 2, 2, 12, 32, 128)
    low = fours(codes.unflatten(-1, (4, 32))).unflatten(-1, (2, 32)).flatten(-3, -2)
    return _scaled(d, m, packed, low | (((bits[..., None, :] >> SHIFTS[:, None]) & 1) << 4))


def _scaled(d: Tensor, m: Tensor, packed: Tensor, codes: Tensor) -> Tensor:
    """Codes (..., G, 8, 32) as numbers (..., G 256)."""
    scales, minimums = sixes(packed)
    scale, minimum = half(d) * scales, half(m) * minimums
    return (codes * scale[..., None] - minimum[..., None]).flatten(-3)


def decode_q6_k(data: np.ndarray) -> Tensor:
    """float32 of Q6_K: 128 bytes of low halves, 64 of high pairs, 16 scales and d; two halves of 128 numbers."""
    low, high, scales, d = parts(data, 128, 64, 16, 2)
    low, high = low.unflatten(-1, (2, 2, 32)), high.unflatten(-1, (2, 1, 32))
    lower = torch.cat((low & 15, low >> 4), dim=-2)  # (..., G, 2, 4, 32)
    upper = (high >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8)[:, None]) & 3
    codes = (lower | (upper << 4)).flatten(-3).float() - 32
    scale = half(d) * scales.view(torch.int8).float()
    return (codes * scale.repeat_interleave(16, dim=-1)).flatten(-2)


READABLE: dict[str, NumberType] = TYPES | {
    one.name: one
    for one in (
        NumberType("Q4_1", 3, 3, BLOCK, 20, None, decode_q4_1),
        NumberType("Q5_0", 6, 8, BLOCK, 22, None, decode_q5_0),
        NumberType("Q5_1", 7, 9, BLOCK, 24, None, decode_q5_1),
        NumberType("Q4_K", 12, 15, LARGE_BLOCK, 144, None, decode_q4_k),
        NumberType("Q5_K", 13, 17, LARGE_BLOCK, 176, None, decode_q5_k),
        NumberType("Q6_K", 14, 18, LARGE_BLOCK, 210, None, decode_q6_k),
    )
}
