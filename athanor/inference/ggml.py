"""The number types of ggml that we write and read: F32, F16, BF16, and blocks of 32 numbers, Q8_0 and Q4_0.

A block is a float16 scale d and 32 codes. Q8_0: one signed byte each, w = q d, d = max|w| / 127. Q4_0: half a byte
each, w = (q - 8) d, d = w* / -8 for the number w* of largest magnitude; number j is in the low half of byte j, number
16 + j in its high half. After `quantize_row_q8_0_ref` and `quantize_row_q4_0_ref` of ggml
(`ggml/src/ggml-quants.c`), whose codes ours equal bit for bit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from athanor.base.errors import AthanorError

BLOCK = 32  # numbers
LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class NumberType:
    """One row of TYPES.

    Attributes:
        code: `enum ggml_type`, as tensors name it.
        file_code: `enum llama_ftype`, as `general.file_type` names a file that is mostly of this type.
        numbers, size: numbers in a block, and the block's bytes.
        encode: float32 (..., K) to bytes (..., K / numbers * size); None: the type is only read.
        decode: the reverse.
    """

    name: str
    code: int
    file_code: int
    numbers: int
    size: int
    encode: Callable[[Tensor], np.ndarray] | None
    decode: Callable[[np.ndarray], Tensor]

    @property
    def in_blocks(self) -> bool:
        """Whether numbers share a scale, so that rows must be made of whole blocks."""
        return self.numbers > 1


def as_bytes(tensor: Tensor) -> np.ndarray:
    """The bytes of a tensor, (..., bytes of a row)."""
    return tensor.contiguous().view(torch.uint8).numpy()


def from_bytes(data: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Numbers of a plain type as float32."""
    return torch.from_numpy(np.ascontiguousarray(data)).view(dtype).float()


def encode_half(weight: Tensor) -> np.ndarray:
    """float16, to nearest even.

    Raises:
        AthanorError: a number is too large for float16.
    """
    largest = weight.abs().amax().item() if weight.numel() else 0.0
    if largest > LARGEST_HALF:
        raise AthanorError(f"a weight of {largest:.3g} does not fit F16", allowed=f"up to {LARGEST_HALF:.0f}",
                           fix="--type bf16 or f32")  # fmt: skip
    return as_bytes(weight.half())


def round_away(x: Tensor) -> Tensor:
    """To the nearest integer, halves away from zero (C's roundf; torch.round takes halves to even)."""
    whole = x.abs().floor()
    return (whole + (x.abs() - whole >= 0.5)).copysign(x)


def encode_q8(weight: Tensor) -> np.ndarray:
    """Q8_0: 34 bytes for 32 numbers."""
    blocks = weight.float().unflatten(-1, (-1, BLOCK))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    codes = round_away(blocks * inverse(scale)).to(torch.int8)
    return together(scale, codes.view(torch.uint8))


def decode_q8(data: np.ndarray) -> Tensor:
    """float32 of Q8_0."""
    scale, codes = apart(data, 2 + BLOCK)
    return (codes.view(torch.int8).float() * scale).flatten(-2)


def encode_q4(weight: Tensor) -> np.ndarray:
    """Q4_0: 18 bytes for 32 numbers."""
    blocks = weight.float().unflatten(-1, (-1, BLOCK))
    place = blocks.abs().argmax(-1, keepdim=True)  # the first of equals, as the reference
    scale = blocks.gather(-1, place) / -8
    codes = (blocks * inverse(scale) + 8.5).trunc().clamp(0, 15).to(torch.uint8)
    low, high = codes.split(BLOCK // 2, dim=-1)
    return together(scale, low | (high << 4))


def decode_q4(data: np.ndarray) -> Tensor:
    """float32 of Q4_0."""
    scale, codes = apart(data, 2 + BLOCK // 2)
    return ((torch.cat((codes & 15, codes >> 4), dim=-1).float() - 8) * scale).flatten(-2)


def inverse(scale: Tensor) -> Tensor:
    """1 / scale, and 0 where the scale is 0 (a block of zeros)."""
    return torch.where(scale == 0, 0.0, 1 / scale)


def together(scale: Tensor, codes: Tensor) -> np.ndarray:
    """Scales (..., G, 1) and code bytes (..., G, C) as blocks, one after another."""
    if bool((scale.abs() > LARGEST_HALF).any()):
        raise AthanorError("a weight is too large for the float16 scale of its block", fix="--type bf16 or f32")
    return as_bytes(torch.cat((scale.half().view(torch.uint8), codes), dim=-1).flatten(-2))


def apart(data: np.ndarray, size: int) -> tuple[Tensor, Tensor]:
    """Blocks of `size` bytes into scales float32 (..., G, 1) and code bytes (..., G, C)."""
    blocks = torch.from_numpy(np.ascontiguousarray(data)).unflatten(-1, (-1, size))
    return blocks[..., :2].contiguous().view(torch.float16).float(), blocks[..., 2:].contiguous()


TYPES: dict[str, NumberType] = {
    one.name: one
    for one in (
        NumberType("F32", 0, 0, 1, 4, lambda w: as_bytes(w.float()), lambda d: from_bytes(d, torch.float32)),
        NumberType("F16", 1, 1, 1, 2, encode_half, lambda d: from_bytes(d, torch.float16)),
        NumberType("BF16", 30, 32, 1, 2, lambda w: as_bytes(w.bfloat16()), lambda d: from_bytes(d, torch.bfloat16)),
        NumberType("Q8_0", 8, 7, BLOCK, 2 + BLOCK, encode_q8, decode_q8),
        NumberType("Q4_0", 2, 2, BLOCK, 2 + BLOCK // 2, encode_q4, decode_q4),
    )
}
