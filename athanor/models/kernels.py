"""The inner loops of the trunk: each as the plain formula, and beside it a faster path with its own gradient.

The plain formulas (`plain_*`) are the reference. The faster paths are taken where they were measured to win: on a CPU,
where torch's own kernels spend much of a small model's step outside matrix products; in training they are those of
`native_kernels.py` where its library was built. They are compared with the plain formulas, gradients included, in
`tests/models/test_kernels.py`. On CUDA attention goes to torch's SDPA
kernels; that was never run on a GPU, since none was at hand.

Shape letters as in `transformer.py`; G query heads per key head, X rows (any leading axes flattened).
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from athanor.models import native_kernels

QUERY_BLOCK = 128  # queries per product: small enough to skip most of the masked half, large enough for fast products


def trains_on_cpu(*inputs: Tensor) -> bool:
    """Whether a gradient of these CPU tensors will be asked for; a compiler does better with the plain formulas."""
    return on_cpu(inputs[0]) and torch.is_grad_enabled() and any(x.requires_grad for x in inputs)


def on_cpu(x: Tensor) -> bool:
    """Whether this is computed on a CPU, now, by torch itself."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.compiler.is_exporting()


def by_blocks(device: torch.device) -> bool:
    """Whether attention goes block by block: on a CPU, but for a graph that is traced to be run by other programs."""
    return device.type == "cpu" and not torch.compiler.is_exporting()


# --- normalisation -----------------------------------------------------------------------------------------------


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis (Zhang and Sennrich 2019, equation 4)."""
    if trains_on_cpu(x, weight):
        way = native_kernels.RmsNorm if native_kernels.usable(x, weight) else RmsNorm
        return way.apply(x, weight, eps)
    return of_length_one(x, eps)[0].mul_(weight) if on_cpu(x) else plain_rms_norm(x, weight, eps)


def plain_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The reference: torch's own."""
    return F.rms_norm(x, weight.shape, weight, eps)


def of_length_one(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """n = x r and r = 1 / sqrt(mean(x^2) + eps), (..., 1)."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    inverse = (length.square() / x.shape[-1] + eps).rsqrt().to(x.dtype)
    return x * inverse, inverse


class RmsNorm(Function):
    """With r = 1 / sqrt(mean(x^2) + eps), n = x r, g = dy weight:  dx = r (g - n mean(g n)),  dweight = sum(dy n)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normal, inverse = of_length_one(x, eps)
        ctx.save_for_backward(normal, inverse, weight)
        return normal * weight

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        normal, inverse, weight = ctx.saved_tensors
        product = dy * normal
        dweight = product.flatten(0, -2).sum(0)
        mean = (product @ weight).unsqueeze(-1) / -weight.shape[0]
        dx = torch.addcmul(dy * weight, normal, mean)
        return dx.mul_(inverse), dweight, None


# --- rotation ----------------------------------------------------------------------------------------------------


def rotate(x_BTNH: Tensor, cos_BT1R: Tensor, sin_BT1R: Tensor, *, pairs: str) -> Tensor:
    """Turn each pair (a, b) by its angle: (a cos - b sin, b cos + a sin); numbers beyond the first 2R stay."""
    if trains_on_cpu(x_BTNH) and native_kernels.can_rotate(x_BTNH, pairs):
        return native_kernels.Rotate.apply(x_BTNH, cos_BT1R, sin_BT1R)
    cos, sin = cos_BT1R.to(x_BTNH.dtype), sin_BT1R.to(x_BTNH.dtype)
    if trains_on_cpu(x_BTNH):
        return Rotate.apply(x_BTNH, cos, sin, pairs)
    return turn(x_BTNH, cos, sin, pairs, sign=1) if on_cpu(x_BTNH) else plain_rotate(x_BTNH, cos, sin, pairs)


def plain_rotate(x_BTNH: Tensor, cos_BT1R: Tensor, sin_BT1R: Tensor, pairs: str) -> Tensor:
    """The reference, with a new tensor for each term."""
    a, b, rest = pair_up(x_BTNH, cos_BT1R.shape[-1], pairs)
    turned = (a * cos_BT1R - b * sin_BT1R, b * cos_BT1R + a * sin_BT1R)
    joined = torch.cat(turned, dim=-1) if pairs == "halves" else torch.stack(turned, dim=-1).flatten(-2)
    return torch.cat((joined, rest), dim=-1) if rest.shape[-1] else joined


def pair_up(x_BTNH: Tensor, rotations: int, pairs: str) -> tuple[Tensor, Tensor, Tensor]:
    """Views of the first and the second numbers of all pairs, and of what is not rotated."""
    turned, rest = x_BTNH[..., : 2 * rotations], x_BTNH[..., 2 * rotations :]
    if pairs == "halves":
        return turned[..., :rotations], turned[..., rotations:], rest
    return turned[..., 0::2], turned[..., 1::2], rest


class Rotate(Function):
    """Writes each term in its place; the gradient of a rotation is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x_BTNH: Tensor, cos: Tensor, sin: Tensor, pairs: str) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.pairs = pairs
        return turn(x_BTNH, cos, sin, pairs, sign=1)

    @staticmethod
    def backward(ctx: Any, dy_BTNH: Tensor) -> tuple[Tensor, None, None, None]:
        return turn(dy_BTNH, *ctx.saved_tensors, ctx.pairs, sign=-1), None, None, None


def turn(x_BTNH: Tensor, cos: Tensor, sin: Tensor, pairs: str, sign: int) -> Tensor:
    """`plain_rotate` without its intermediate tensors; sign -1 turns back."""
    batch, length, heads, size = x_BTNH.shape
    # In memory head after head: what attention reads next, and faster to write.
    y_BTNH = torch.empty((batch, heads, length, size), dtype=x_BTNH.dtype).transpose(1, 2)
    a, b, rest = pair_up(x_BTNH, cos.shape[-1], pairs)
    y_a, y_b, y_rest = pair_up(y_BTNH, cos.shape[-1], pairs)
    torch.mul(a, cos, out=y_a).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=y_b).addcmul_(a, sin, value=sign)
    y_rest.copy_(rest)
    return y_BTNH


# --- feed-forward ------------------------------------------------------------------------------------------


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up, where gate and up are the two halves of the last axis (Shazeer 2020, equation 6)."""
    if trains_on_cpu(x):
        return (native_kernels.SwiGlu if native_kernels.usable(x) else SwiGlu).apply(x)
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate).mul_(up) if on_cpu(x) else plain_swiglu(x)


def plain_swiglu(x: Tensor) -> Tensor:
    """The reference."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def geglu(x: Tensor) -> Tensor:
    """gelu(gate) * up, gelu by its tanh approximation (Shazeer 2020, equation 6; T5 1.1)."""
    gate, up = x.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh") * up


def geglu_exact(x: Tensor) -> Tensor:
    """gelu(gate) * up with the exact gelu (Shazeer 2020, equation 6; GLM-130B)."""
    gate, up = x.chunk(2, dim=-1)
    return F.gelu(gate) * up


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x): gelu by its sigmoid approximation (Hendrycks and Gimpel 2016, section 2; CLIP)."""
    return x * torch.sigmoid(1.702 * x)


def gelu_tanh(x: Tensor) -> Tensor:
    """gelu by its tanh approximation (Hendrycks and Gimpel 2016, section 2; GPT-2)."""
    return F.gelu(x, approximate="tanh")


class SwiGlu(Function):
    """Writes both halves of the gradient into one tensor, so that nothing is joined afterwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        active = F.silu(gate)
        ctx.save_for_backward(x, active)
        return active * up

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        x, active = ctx.saved_tensors
        gate, up = x.chunk(2, dim=-1)
        dx = torch.empty(x.shape, dtype=x.dtype)
        dgate, dup = dx.chunk(2, dim=-1)
        torch.mul(dy, active, out=dup)
        torch.ops.aten.silu_backward.grad_input(dy * up, gate, grad_input=dgate)
        return dx


# --- attention ---------------------------------------------------------------------------------------------------


class Mask:
    """Who attends to whom in rows of packed documents, and which keys a block of queries needs to look at.

    Position t attends to s when both are of one document, when s is not behind t (`causal`), and when s is not further
    back than the window: a window of W keys moves the start, max(start(t), t - W + 1) (Longformer, Beltagy et al. 2020,
    section 3.1; Mistral 7B, Jiang et al. 2023, section 2).

    Args:
        length: positions per row (T).
        starts_BT: first position of each position's document; None: 0 everywhere.
        device: where the mask is used.
        window: most keys a query attends to, its own included; None: no limit. With `causal` only.
        causal: whether nobody attends to what stands behind it.
        allowed_BTS: who attends to whom, instead of all of the above; None: as said.
    """

    def __init__(
        self,
        length: int,
        starts_BT: Tensor | None,
        device: torch.device,
        window: int | None = None,
        *,
        causal: bool = True,
        allowed_BTS: Tensor | None = None,
    ):
        place_T = torch.arange(length, device=device)
        ends_BT = None if causal or starts_BT is None else document_ends(starts_BT)
        if window is not None and window < length:
            first_T = (place_T - window + 1).clamp_min(0)
            starts_BT = first_T[None] if starts_BT is None else torch.maximum(starts_BT, first_T)
        self.length, self.causal, self.plain = length, causal, starts_BT is None and allowed_BTS is None
        # Each query sees the keys first to end - 1, (B or 1, T) each; None: others.
        self.ranges: tuple[Tensor, Tensor] | None = None
        if allowed_BTS is None and by_blocks(device):
            first_BT = torch.zeros_like(place_T)[None] if starts_BT is None else starts_BT.contiguous()
            end_BT = place_T[None] + 1 if causal else torch.full_like(place_T, length)[None]
            end_BT = end_BT.expand_as(first_BT) if ends_BT is None else ends_BT
            self.ranges = first_BT, end_BT.contiguous()
        self.allowed_BTS = allowed_BTS  # None: everybody attends to everybody
        if allowed_BTS is None and causal:
            self.allowed_BTS = (place_T[:, None] >= place_T)[None]
        if allowed_BTS is None and starts_BT is not None:
            after_start_BTS = place_T >= starts_BT[:, :, None]
            before_end_BTS = self.allowed_BTS if ends_BT is None else place_T < ends_BT[:, :, None]
            self.allowed_BTS = after_start_BTS & before_end_BTS
        self.block_starts: list[list[int]] | None = None
        self.block_ends: list[list[int]] | None = None
        if by_blocks(device):  # elsewhere nobody asks, and asking would wait
            last_T = (place_T[::QUERY_BLOCK] + QUERY_BLOCK - 1).clamp_max(length - 1)
            self.block_starts = None if starts_BT is None else starts_BT[:, ::QUERY_BLOCK].tolist()
            self.block_ends = None if ends_BT is None else ends_BT[:, last_T].tolist()
        self.bias_BTS: Tensor | None = None

    def bias(self, row: int, queries: slice, keys: slice, dtype: torch.dtype) -> Tensor | None:
        """A block of 0 where attention is allowed and minus infinity elsewhere; the whole is made once per dtype."""
        if self.allowed_BTS is None:
            return None
        if self.bias_BTS is None or self.bias_BTS.dtype != dtype:
            zeros_BTS = torch.zeros(self.allowed_BTS.shape, dtype=dtype)
            self.bias_BTS = zeros_BTS.masked_fill_(~self.allowed_BTS, float("-inf"))
        return self.bias_BTS[row if len(self.bias_BTS) > 1 else 0, queries, keys]

    def blocks(self, rows: int) -> Iterator[tuple[int, slice, slice]]:
        """Row by row, blocks of queries, each with the keys that any of them may attend to."""
        for row in range(rows):
            for block, first in enumerate(range(0, self.length, QUERY_BLOCK)):
                last = min(first + QUERY_BLOCK, self.length)
                start = 0 if self.block_starts is None else self.block_starts[row % len(self.block_starts)][block]
                end = last if self.causal else self.length
                if self.block_ends is not None:
                    end = self.block_ends[row % len(self.block_ends)][block]
                yield row, slice(first, last), slice(start, end)


def document_ends(starts_BT: Tensor) -> Tensor:
    """One more than the last position of each position's document, (B, T), from the first ones."""
    length = starts_BT.shape[1]
    place_T = torch.arange(1, length + 1, device=starts_BT.device)
    last_BT = torch.zeros_like(starts_BT).scatter_reduce(1, starts_BT, place_T.expand_as(starts_BT), "amax")
    return last_BT.gather(1, starts_BT)


def self_attention(q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, mask: Mask, scale: float) -> Tensor:
    """softmax(scale q k) v over allowed keys, (B, T, N, H); scale is 1 / sqrt(H) in Vaswani et al. 2017, equation 1."""
    blocks = by_blocks(q_BTNH.device)
    if blocks and mask.ranges is not None and native_kernels.can_attend(q_BTNH, k_BTKH, v_BTKH):
        return native_kernels.Attention.apply(q_BTNH, k_BTKH, v_BTKH, *mask.ranges, scale)
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (q_BTNH, k_BTKH, v_BTKH))
    # On a CPU torch's own kernel wins in float32 where no mask is to be read, but for a causal one's gradients.
    if blocks and ((learns and mask.causal) or not mask.plain or q_BTNH.dtype != torch.float32):
        return BlockedAttention.apply(q_BTNH, k_BTKH, v_BTKH, mask, scale)
    k_BKTH, v_BKTH = k_BTKH.transpose(1, 2), v_BTKH.transpose(1, 2)
    if not mask.plain:
        return masked_attention(q_BTNH, k_BKTH, v_BKTH, mask.allowed_BTS, scale)
    grouped = q_BTNH.shape[2] != k_BTKH.shape[2]
    y_BNTH = F.scaled_dot_product_attention(
        q_BTNH.transpose(1, 2), k_BKTH, v_BKTH, is_causal=mask.causal, scale=scale, enable_gqa=grouped
    )
    return y_BNTH.transpose(1, 2)


def masked_attention(
    q_BTNH: Tensor,
    k_BKSH: Tensor,
    v_BKSH: Tensor,
    allowed_BTS: Tensor | None,
    scale: float,
    bias_BNTS: Tensor | None = None,
) -> Tensor:
    """The same with any mask (None: all keys), keys of another text or a cache, and a bias that is added to the scores.

    Each group of N/K query heads shares one key head.
    """
    if bias_BNTS is not None:
        return plain_attention(q_BTNH, k_BKSH.transpose(1, 2), v_BKSH.transpose(1, 2), allowed_BTS, scale, bias_BNTS)
    mask_B1TS = None if allowed_BTS is None else allowed_BTS[:, None]
    grouped = q_BTNH.shape[2] != k_BKSH.shape[1]
    y_BNTH = F.scaled_dot_product_attention(
        q_BTNH.transpose(1, 2), k_BKSH, v_BKSH, attn_mask=mask_B1TS, scale=scale, enable_gqa=grouped
    )
    return y_BNTH.transpose(1, 2)


def plain_attention(
    q_BTNH: Tensor,
    k_BSKH: Tensor,
    v_BSKH: Tensor,
    allowed_BTS: Tensor | None,
    scale: float,
    bias_BNTS: Tensor | None = None,
) -> Tensor:
    """The reference: every score written out."""
    group = q_BTNH.shape[2] // k_BSKH.shape[2]
    k_BSNH, v_BSNH = k_BSKH.repeat_interleave(group, 2), v_BSKH.repeat_interleave(group, 2)
    score_BNTS = torch.einsum("btnh,bsnh->bnts", q_BTNH, k_BSNH) * scale
    if bias_BNTS is not None:
        score_BNTS = score_BNTS + bias_BNTS.to(score_BNTS.dtype)
    if allowed_BTS is not None:
        score_BNTS = score_BNTS.masked_fill(~allowed_BTS[:, None], float("-inf"))
    return torch.einsum("bnts,bsnh->btnh", score_BNTS.softmax(-1), v_BSNH)


class BlockedAttention(Function):
    """Attention row by row and by blocks of queries, as plain products; probabilities are kept if a gradient is due.

    One block's scores stay in a core's own cache, and keys of earlier documents are skipped. Query heads that share a
    key head lie side by side, (K, T G, H), so that a group is one product.
    With p = softmax(score) and dp = dy v:  dv = p dy,  dscore = p (dp - sum(p dp)),  dq = dscore k,  dk = dscore q.
    """

    @staticmethod
    def forward(ctx: Any, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, mask: Mask, scale: float) -> Tensor:
        batch, _, heads, _ = q_BTNH.shape
        group = heads // k_BTKH.shape[2]
        q, k, v = by_head(q_BTNH * scale, group), by_head(k_BTKH, 1), by_head(v_BTKH, 1)
        y = torch.empty_like(q)
        kept = []
        for row, queries, keys in mask.blocks(batch):
            grouped = slice(queries.start * group, queries.stop * group)
            score = torch.bmm(q[row, :, grouped], k[row, :, keys].mT)
            bias = mask.bias(row, queries, keys, q.dtype)
            if bias is not None:
                score.unflatten(1, (-1, group)).add_(bias[:, None])
            p = torch.softmax(score, dim=-1)
            torch.bmm(p, v[row, :, keys], out=y[row, :, grouped])
            if any(ctx.needs_input_grad):
                kept.append(p)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.mask, ctx.group, ctx.scale = mask, group, scale
        return from_head(y, group)

    @staticmethod
    def backward(ctx: Any, dy_BTNH: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, *kept = ctx.saved_tensors
        group = ctx.group
        dy = by_head(dy_BTNH, group)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for p, (row, queries, keys) in zip(kept, ctx.mask.blocks(len(q)), strict=True):
            grouped = slice(queries.start * group, queries.stop * group)
            dv[row, :, keys] += torch.bmm(p.mT, dy[row, :, grouped])
            dp = torch.bmm(dy[row, :, grouped], v[row, :, keys].mT)
            dscore = torch._softmax_backward_data(dp, p, -1, p.dtype)
            torch.bmm(dscore, k[row, :, keys], out=dq[row, :, grouped])
            dk[row, :, keys] += torch.bmm(dscore.mT, q[row, :, grouped])
        dq *= ctx.scale
        return from_head(dq, group), from_head(dk, 1), from_head(dv, 1), None, None


def by_head(x_BTNH: Tensor, group: int) -> Tensor:
    """(B, T, K G, H) -> (B, K, T G, H), contiguous."""
    return x_BTNH.unflatten(2, (-1, group)).transpose(1, 2).flatten(2, 3).contiguous()


def from_head(x: Tensor, group: int) -> Tensor:
    """(B, K, T G, H) -> (B, T, K G, H)."""
    return x.unflatten(2, (-1, group)).transpose(1, 2).flatten(2, 3)
