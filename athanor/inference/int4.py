"""INT4 weights in groups and INT8 weights in rows: from numbers to codes, and the modules that compute with them.

A weight w of group g is stored as a code q of 4 bits: w = (q - 8) * scale_g + zero_g. Scales and zeros are bfloat16.

Three kernels compute with INT4 weights. `plain` makes the weight anew for every product: the reference, on any device.
`packed` uses torch's CPU operator, which takes bfloat16 only: best for a few rows (decoding). `unpacked` makes the
weight once and keeps it, at the memory of a bfloat16 model: best for many rows (evaluation).

Shape letters: N rows of a weight (outputs), K columns (inputs), G groups of a row, C columns of a group.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from athanor.base.errors import AthanorError

GROUP_SIZES = (32, 64, 128, 256)  # what the packed operator knows
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # shares of a group's range that are tried
ROWS_AT_ONCE = 4096
FEW_ROWS = 8  # up to here torch's INT8 operator is faster than making the weight: 63 against 339 us for one row of 256

Kernel = Literal["plain", "packed", "unpacked"]
KERNELS = ("plain", "packed", "unpacked")

# ------------------------------------------------------------------------------------------------- numbers to codes


def quantize_int4(
    weight_NK: Tensor, group_size: int, symmetric: bool = False, name: str = "a weight"
) -> dict[str, Tensor]:
    """Codes, scales and zeros of a weight with the least squared error over a few clippings of each group's range.

    After rounding, scale and zero are fitted anew to the codes by least squares.

    Raises:
        AthanorError: the columns are no multiple of the group size.
    """
    if weight_NK.shape[1] % group_size:
        allowed = [str(size) for size in GROUP_SIZES if weight_NK.shape[1] % size == 0]
        raise AthanorError(
            f"{name} of {weight_NK.shape[1]} columns cannot be cut into groups of {group_size}",
            allowed=f"group_size {' or '.join(allowed)}" if allowed else f"columns that one of {GROUP_SIZES} divides",
        )
    parts = [_quantize_rows(rows, group_size, symmetric) for rows in weight_NK.split(ROWS_AT_ONCE)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _quantize_rows(weight_NK: Tensor, group_size: int, symmetric: bool) -> dict[str, Tensor]:
    w_NGC = weight_NK.float().unflatten(1, (-1, group_size))
    best: dict[str, Tensor] = {}
    for clip in CLIPS:
        one = _fit(w_NGC, clip, symmetric)
        if not best:
            best = one
            continue
        better_NG1 = one["error"] < best["error"]
        best = {name: torch.where(better_NG1, one[name], best[name]) for name in best}
    codes_NK = best["codes"].to(torch.uint8).flatten(1)
    return {
        "codes": codes_NK[:, 0::2] | (codes_NK[:, 1::2] << 4),
        "scale": best["scale"][:, :, 0].bfloat16(), "zero": best["zero"][:, :, 0].bfloat16(),
    }  # fmt: skip


def _fit(w_NGC: Tensor, clip: float, symmetric: bool) -> dict[str, Tensor]:
    """Codes for one clipping, and the scale and zero that suit them best, rounded as they are stored."""
    low_NG1, high_NG1 = w_NGC.amin(-1, keepdim=True), w_NGC.amax(-1, keepdim=True)
    middle_NG1, half_NG1 = (high_NG1 + low_NG1) / 2, (high_NG1 - low_NG1) / 2
    if symmetric:
        middle_NG1, half_NG1 = torch.zeros_like(middle_NG1), w_NGC.abs().amax(-1, keepdim=True)
    scale_NG1 = (half_NG1 * clip / 7.5).clamp_min(1e-12)
    zero_NG1 = middle_NG1 if symmetric else middle_NG1 + scale_NG1 / 2  # code 8 stands half a step above the middle
    codes_NGC = ((w_NGC - zero_NG1) / scale_NG1 + 8).round().clamp(0, 15)
    steps_NGC = codes_NGC - 8
    if symmetric:
        fitted_NG1 = (w_NGC * steps_NGC).sum(-1, keepdim=True) / (steps_NGC**2).sum(-1, keepdim=True).clamp_min(1e-12)
        scale_NG1 = torch.where(fitted_NG1 > 0, fitted_NG1, scale_NG1)
    else:
        centred_NGC = steps_NGC - steps_NGC.mean(-1, keepdim=True)
        spread_NG1 = (centred_NGC**2).sum(-1, keepdim=True)
        fitted_NG1 = (w_NGC * centred_NGC).sum(-1, keepdim=True) / spread_NG1.clamp_min(1e-12)
        scale_NG1 = torch.where(spread_NG1 > 0, fitted_NG1, scale_NG1)
    scale_NG1 = scale_NG1.bfloat16().float()
    if not symmetric:
        zero_NG1 = (w_NGC - steps_NGC * scale_NG1).mean(-1, keepdim=True).bfloat16().float()
    error_NG1 = ((steps_NGC * scale_NG1 + zero_NG1 - w_NGC) ** 2).sum(-1, keepdim=True)
    return {"codes": codes_NGC, "scale": scale_NG1, "zero": zero_NG1, "error": error_NG1}


def quantize_int8(weight_NK: Tensor) -> dict[str, Tensor]:
    """Codes -127 to 127 and one scale per row."""
    scale_N = (weight_NK.float().abs().amax(1) / 127).clamp_min(1e-12).bfloat16()
    codes_NK = (weight_NK.float() / scale_N.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
    return {"codes": codes_NK, "scale": scale_N}


def split_codes(codes: Tensor) -> Tensor:
    """Bytes (..., K / 2) to codes 0 to 15 (..., K)."""
    return torch.stack((codes & 15, codes >> 4), dim=-1).flatten(-2)


def dequantize_int4(codes: Tensor, scale: Tensor, zero: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight rows (..., K) of codes (..., K / 2) and scales (..., G), computed in float32."""
    steps = split_codes(codes).float().unflatten(-1, (scale.shape[-1], -1)) - 8
    return (steps * scale.float()[..., None] + zero.float()[..., None]).flatten(-2).to(dtype)


# ------------------------------------------------------------------------------------------------------ the modules


class FrozenProduct(Function):
    """x W^T with a frozen weight that is made from its codes when it is needed, forward and backward, and not kept.

    Kept by torch's own product until the backward pass, the weights of all layers would be there at once, which is
    what INT4 is to avoid (QLoRA, Dettmers et al. 2023, equation 5).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, make: Callable[[torch.dtype], Tensor]) -> Tensor:
        ctx.make = make
        return F.linear(x, make(x.dtype))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return dy @ ctx.make(dy.dtype), None


class Int4Linear(nn.Module):
    """A linear layer with INT4 weights; `kernel` says how it computes."""

    def __init__(self, tensors: Mapping[str, Tensor], bias: Tensor | None):
        super().__init__()
        self.kernel: Kernel = "plain"
        self.out_features = tensors["codes"].shape[0]
        self.group_size = 2 * tensors["codes"].shape[1] // tensors["scale"].shape[1]
        for name in ("codes", "scale", "zero"):
            self.register_buffer(name, tensors[name])
        self.register_buffer("bias", bias)

    @property
    def weight(self) -> Tensor:
        """The weight it stands for, bfloat16 (N, K); not after `packed`, which gives the codes away."""
        return dequantize_int4(self.codes, self.scale, self.zero, torch.bfloat16)

    def can_pack(self) -> bool:
        """Whether torch's operator takes this device and shape."""
        return self.codes is not None and self.codes.device.type == "cpu" and self.out_features % 16 == 0

    def use(self, kernel: Kernel) -> None:
        """Change from `plain` to another kernel; there is no way back, because memory is given away."""
        if kernel == "packed":
            codes_NK = split_codes(self.codes).int()
            self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes_NK, 1)
            self.scales_and_zeros = torch.stack((self.scale, self.zero), dim=-1).transpose(0, 1).contiguous()
        elif kernel == "unpacked":
            self.made = self.weight
        if kernel != "plain":
            self.codes = self.scale = self.zero = None
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel == "packed":
            flat = x.reshape(-1, x.shape[-1]).bfloat16()  # the operator is 45 times slower on float32
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(flat, self.packed, self.group_size, self.scales_and_zeros)
            y = y.to(x.dtype).view(*x.shape[:-1], self.out_features)
            return y if self.bias is None else y + self.bias
        if self.kernel == "plain" and x.requires_grad and torch.is_grad_enabled():
            y = FrozenProduct.apply(x, lambda dtype: self.weight.to(dtype))
            return y if self.bias is None else y + self.bias
        weight = self.made.to(x.dtype) if self.kernel == "unpacked" else self.weight.to(x.dtype)
        return F.linear(x, weight, self.bias)


def with_room_behind(tensor: Tensor) -> Tensor:
    """The same numbers, followed in memory by 4 KiB that nobody needs.

    torch's INT8 operator reads a vector beyond its last row; in a tensor mapped from a file that is the end of the
    mapping, and the program dies (seen with 600 rows, torch 2.13).
    """
    if tensor.device.type == "meta":
        return tensor
    room = torch.zeros(tensor.numel() + 4096 // tensor.element_size(), dtype=tensor.dtype, device=tensor.device)
    room[: tensor.numel()] = tensor.flatten()
    return room[: tensor.numel()].view(tensor.shape)


class Int8Linear(nn.Module):
    """A linear layer with INT8 weights, one scale per row."""

    def __init__(self, tensors: Mapping[str, Tensor], bias: Tensor | None):
        super().__init__()
        for name in ("codes", "scale"):
            self.register_buffer(name, with_room_behind(tensors[name]))
        self.register_buffer("bias", bias)

    @property
    def weight(self) -> Tensor:
        """The weight it stands for, float32 (N, K)."""
        return self.codes.float() * self.scale.float()[:, None]

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            y = FrozenProduct.apply(x, lambda dtype: self.weight.to(dtype))
            return y if self.bias is None else y + self.bias
        rows = x.numel() // x.shape[-1]
        if rows <= FEW_ROWS and x.dtype == torch.bfloat16 and x.device.type == "cpu":
            y = torch._weight_int8pack_mm(x.reshape(rows, -1), self.codes, self.scale).view(*x.shape[:-1], -1)
        else:
            blocks = zip(self.codes.split(ROWS_AT_ONCE), self.scale.split(ROWS_AT_ONCE), strict=True)
            y = torch.cat([F.linear(x, codes.to(x.dtype)) * scale.to(x.dtype) for codes, scale in blocks], dim=-1)
        return y if self.bias is None else y + self.bias


class QuantizedEmbedding(nn.Module):
    """An embedding whose rows are made from INT4 or INT8 codes when they are asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, ids: Tensor) -> Tensor:
        if hasattr(self, "zero"):
            return dequantize_int4(self.codes[ids], self.scale[ids], self.zero[ids], self.dtype)
        return (self.codes[ids].float() * self.scale[ids].float()[..., None]).to(self.dtype)
