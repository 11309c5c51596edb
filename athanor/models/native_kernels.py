"""Inner loops of the trunk in C (athanor/native/layers.c, attention.c, product.c), with their gradients, and AdamW.

They are used on a CPU while training where the library was built; torch (`kernels.py`, `F.linear`, its AdamW) defines
them. Both round in other places, so results agree to the rounding of the number type, not to the bit.

Shape letters as in `transformer.py`; X rows (any leading axes flattened).
"""

import ctypes
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from athanor.base import native

HALF = {torch.float32: 0, torch.bfloat16: 1}
WORTH_A_THREAD = 65_536  # numbers; fewer are done before another thread has woken up
MANY_ROWS = 64  # rows of a product for which its right factor is worth packing
FEW_COLUMNS = 32  # a panel has 64, and what is missing is computed, too


def usable(*tensors: Tensor) -> bool:
    """Whether the library is there and knows this number type."""
    dtype = tensors[0].dtype
    return dtype in HALF and all(tensor.dtype == dtype for tensor in tensors) and native.available()


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    """Where the numbers of a tensor are; it must stay alive as long as the library uses them."""
    return ctypes.c_void_p(tensor.data_ptr())


@functools.cache
def pool(threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work; the library lets go of the interpreter's lock."""
    return ThreadPoolExecutor(threads)


def share(rows: int, numbers: int, work: Callable[[int, int, int], object]) -> None:
    """Call work(part, first row, end) for as many parts of the rows as torch uses threads (`parts_of`)."""
    count = parts_of(numbers)
    bounds = [rows * part // count for part in range(count + 1)]
    others = [pool(count - 1).submit(work, part, bounds[part], bounds[part + 1]) for part in range(1, count)]
    work(0, 0, bounds[1])
    for other in others:
        other.result()


def parts_of(numbers: int) -> int:
    """Parts that a tensor of so many numbers is cut into."""
    return torch.get_num_threads() if numbers >= WORTH_A_THREAD else 1


@functools.cache
def has_products(half: int) -> bool:
    """Whether the library multiplies float32 numbers, or bf16 ones (half = 1), faster here than torch does."""
    return native.available() and native.function("athanor_can_multiply")(half) == 1


def can_multiply(x: Tensor, weight: Tensor) -> bool:
    """Whether `Linear` knows these numbers, and packing the weight is little beside the product."""
    even = weight.shape[0] % 2 == weight.shape[1] % 2 == x.numel() // weight.shape[1] % 2 == 0
    enough = x.numel() >= MANY_ROWS * weight.shape[1] and min(weight.shape) >= FEW_COLUMNS
    return even and enough and weight.is_contiguous() and usable(x, weight) and has_products(HALF[x.dtype])


class Linear(Function):
    """x weight^T, whose gradients are dx = dy weight and dweight = dy^T x; sums are float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        return product(x, weight, torch.empty((*x.shape[:-1], len(weight)), dtype=x.dtype), turned=1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (x, weight), dy = ctx.saved_tensors, dy.contiguous()
        dx = product(dy, weight, torch.empty_like(x), turned=0) if ctx.needs_input_grad[0] else None
        return dx, product_down(dy, x) if ctx.needs_input_grad[1] else None


def product(a: Tensor, b: Tensor, y: Tensor, turned: int) -> Tensor:
    """Write a b (b turned about its diagonal: a b^T) to y and return it; `a` and y may have more leading axes."""
    assert a.is_contiguous() and b.is_contiguous() and y.is_contiguous()
    rows, deep, columns = a.numel() // a.shape[-1], a.shape[-1], y.shape[-1]
    given, run, half = (pointer(a), pointer(b), pointer(y)), native.function("athanor_product"), HALF[a.dtype]
    share(rows, rows * columns, lambda part, first, end: run(*given, first, end, deep, columns, turned, half))
    return y


def product_down(a: Tensor, b: Tensor, total: Tensor | None = None) -> Tensor:
    """a^T b, of the type of its factors, leading axes flattened; or added to a float32 total."""
    rows, deep, columns, half = a.numel() // a.shape[-1], a.shape[-1], b.shape[-1], HALF[a.dtype]
    sums = torch.empty(deep, columns) if total is None else total
    assert a.is_contiguous() and b.is_contiguous() and sums.is_contiguous()
    y = torch.empty(deep, columns, dtype=a.dtype) if total is None and half else None
    given = (pointer(a), pointer(b), pointer(sums), ctypes.c_void_p(None) if y is None else pointer(y))
    run, add = native.function("athanor_product_down"), int(total is not None)
    share(deep, rows * columns, lambda part, first, end: run(*given, first, end, rows, deep, columns, add, half))
    return sums if y is None else y


class RmsNorm(Function):
    """`kernels.plain_rms_norm`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x, width = x.contiguous(), weight.shape[0]
        rows, half = x.numel() // width, HALF[x.dtype]
        y, inverse_X = torch.empty_like(x), torch.empty(rows)
        given = (pointer(x), pointer(weight), pointer(y), pointer(inverse_X))
        run = native.function("athanor_rms_norm")
        share(rows, x.numel(), lambda part, a, b: run(*given, a, b, width, ctypes.c_double(eps), half))
        ctx.save_for_backward(x, weight, inverse_X)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, inverse_X = ctx.saved_tensors
        dy, width, half = dy.contiguous(), weight.shape[0], HALF[x.dtype]
        dx, dweight = torch.empty_like(x), torch.zeros(parts_of(x.numel()), width)  # a sum for each thread
        given = (pointer(x), pointer(weight), pointer(inverse_X), pointer(dy), pointer(dx))
        run = native.function("athanor_rms_norm_back")
        share(len(inverse_X), x.numel(), lambda part, a, b: run(*given, pointer(dweight[part]), a, b, width, half))
        return dx, dweight.sum(0).to(weight.dtype), None


class SwiGlu(Function):
    """`kernels.plain_swiglu`; the sigmoid is computed again on the way back, which is cheaper than keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x, hidden = x.contiguous(), x.shape[-1] // 2
        y = torch.empty((*x.shape[:-1], hidden), dtype=x.dtype)
        run, half = native.function("athanor_swiglu"), HALF[x.dtype]
        share(
            y.numel() // hidden, x.numel(), lambda part, a, b: run(pointer(x), pointer(y), a, b, hidden, half)
        )  # fmt: skip
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        dy, hidden, half = dy.contiguous(), x.shape[-1] // 2, HALF[x.dtype]
        dx, run = torch.empty_like(x), native.function("athanor_swiglu_back")
        given = (pointer(x), pointer(dy), pointer(dx))
        share(dy.numel() // hidden, x.numel(), lambda part, a, b: run(*given, a, b, hidden, half))
        return dx


def can_rotate(x_BTNH: Tensor, pairs: str) -> bool:
    """Whether `Rotate` knows these pairs and heads."""
    return pairs == "halves" and x_BTNH.stride(-1) == 1 and usable(x_BTNH)


class Rotate(Function):
    """`kernels.plain_rotate` for pairs of halves; float32 angles, and memory head after head, as attention reads it."""

    @staticmethod
    def forward(ctx: Any, x_BTNH: Tensor, cos_BT1R: Tensor, sin_BT1R: Tensor) -> Tensor:
        batch, length, heads, size = x_BTNH.shape
        cos_BT1R, sin_BT1R = cos_BT1R.contiguous(), sin_BT1R.contiguous()
        ctx.save_for_backward(cos_BT1R, sin_BT1R)
        y_BTNH = torch.empty((batch, heads, length, size), dtype=x_BTNH.dtype).transpose(1, 2)
        return rotate(x_BTNH, cos_BT1R, sin_BT1R, y_BTNH, sign=1)

    @staticmethod
    def backward(ctx: Any, dy_BTNH: Tensor) -> tuple[Tensor, None, None]:
        dy_BTNH = dy_BTNH if dy_BTNH.stride(-1) == 1 else dy_BTNH.contiguous()
        return rotate(dy_BTNH, *ctx.saved_tensors, torch.empty(dy_BTNH.shape, dtype=dy_BTNH.dtype), sign=-1), None, None


class SplitAndRotate(Function):
    """Queries, keys and values that stand side by side (M = N + 2 K), the first two turned as by `Rotate`.

    Their three gradients are written where that of the whole is to be, so that nothing is joined afterwards.
    """

    @staticmethod
    def forward(
        ctx: Any, heads_BTMH: Tensor, cos_BT1R: Tensor, sin_BT1R: Tensor, heads: int, key_heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, _, size = heads_BTMH.shape
        cos_BT1R, sin_BT1R = cos_BT1R.contiguous(), sin_BT1R.contiguous()
        ctx.save_for_backward(cos_BT1R, sin_BT1R)
        turned = torch.empty((batch, heads + key_heads, length, size), dtype=heads_BTMH.dtype).transpose(1, 2)
        rotate(heads_BTMH[:, :, : heads + key_heads], cos_BT1R, sin_BT1R, turned, sign=1)
        return turned[:, :, :heads], turned[:, :, heads:], heads_BTMH[:, :, heads + key_heads :]

    @staticmethod
    def backward(ctx: Any, dq_BTNH: Tensor, dk_BTKH: Tensor, dv_BTKH: Tensor) -> tuple[Tensor, None, None, None, None]:
        batch, length, heads, size = dq_BTNH.shape
        counts = (heads, dk_BTKH.shape[2], dv_BTKH.shape[2])
        dheads_BTMH = torch.empty((batch, length, sum(counts), size), dtype=dq_BTNH.dtype)
        to_q, to_k, to_v = dheads_BTMH.split(counts, dim=2)
        cos_BT1R, sin_BT1R = ctx.saved_tensors  # once: with recomputation a second look is an error
        for given, to in ((dq_BTNH, to_q), (dk_BTKH, to_k)):
            rotate(given if given.stride(-1) == 1 else given.contiguous(), cos_BT1R, sin_BT1R, to, sign=-1)
        to_v.copy_(dv_BTKH)
        return dheads_BTMH, None, None, None, None


def rotate(x_BTNH: Tensor, cos_BT1R: Tensor, sin_BT1R: Tensor, y_BTNH: Tensor, sign: int) -> Tensor:
    """Write the turned heads to y_BTNH and return it; sign -1 turns back."""
    batch, length, heads, size = x_BTNH.shape
    turns = cos_BT1R.shape[-1]
    angle_row = 0 if len(cos_BT1R) == 1 else length * turns
    run, half = native.function("athanor_rotate"), HALF[x_BTNH.dtype]
    given = (pointer(x_BTNH), pointer(y_BTNH), pointer(cos_BT1R), pointer(sin_BT1R))
    steps = (*x_BTNH.stride()[:3], *y_BTNH.stride()[:3])
    share(
        batch * length, x_BTNH.numel(),
        lambda part, a, b: run(*given, a, b, length, heads, size, turns, *steps, angle_row, sign, half),
    )  # fmt: skip
    return y_BTNH


def cross_entropy(logits_XV: Tensor, targets_X: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """Turn logits into the gradient of their loss; returns every row's -log p[target] and log(sum(exp(logits)))."""
    assert logits_XV.is_contiguous() and targets_X.is_contiguous()
    rows, vocabulary = logits_XV.shape
    loss_X, log_sum_X = torch.empty(rows), torch.empty(rows)
    run, half = native.function("athanor_cross_entropy"), HALF[logits_XV.dtype]
    given = (pointer(logits_XV), pointer(targets_X), pointer(loss_X), pointer(log_sum_X))
    z = ctypes.c_double(z_loss)
    share(rows, logits_XV.numel(), lambda part, a, b: run(*given, a, b, vocabulary, z, half))
    return loss_X, log_sum_X


def add(total: Tensor, part: Tensor) -> None:
    """total += part, bf16 numbers to float32 ones, for which torch makes a float32 copy first."""
    assert total.is_contiguous() and part.is_contiguous() and total.dtype == torch.float32
    run = native.function("athanor_add")
    share(part.numel(), part.numel(), lambda _, a, b: run(pointer(total), pointer(part), a, b))


def can_update(master: Tensor, gradient: Tensor, weight: Tensor) -> bool:
    """Whether `adamw` knows these numbers: float32 masters on a CPU, weights and gradients of any type it has."""
    known = all(x.is_contiguous() and x.device.type == "cpu" and x.dtype in HALF for x in (master, gradient, weight))
    return known and master.dtype == torch.float32 and has_registers(1)


def adamw(
    master: Tensor, state: dict[str, Tensor], gradient: Tensor, weight: Tensor, scale: float, group: dict[str, Any]
) -> None:
    """One step of torch.optim.AdamW with the gradient times `scale`, in one pass over memory.

    Args:
        state, group: what torch.optim.AdamW keeps of this weight, and its settings.
        weight: takes the result in its number type; where it is float32 it is the master itself.
    """
    state["step"] += 1
    steps, (beta1, beta2), half = float(state["step"]), group["betas"], HALF[gradient.dtype]
    given = (pointer(master), pointer(state["exp_avg"]), pointer(state["exp_avg_sq"]), pointer(gradient))
    rounded = pointer(weight) if HALF[weight.dtype] else ctypes.c_void_p(None)
    bias1, bias2 = 1 - beta1**steps, 1 - beta2**steps
    numbers = (scale, group["lr"], beta1, beta2, group["eps"], group["weight_decay"], bias1, bias2)
    doubles, run = tuple(map(ctypes.c_double, numbers)), native.function("athanor_adamw")
    share(master.numel(), master.numel(), lambda part, a, b: run(*given, rounded, a, b, *doubles, half))


@functools.cache
def has_registers(half: int) -> bool:
    """Whether the processor can do what athanor/native does for attention of float32 numbers, or of bf16 (half = 1)."""
    return native.available() and native.function("athanor_can_attend")(half) == 1


def can_attend(q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor) -> bool:
    """Whether `Attention` knows these heads."""
    inputs = (q_BTNH, k_BTKH, v_BTKH)
    whole = all(in_pairs(x) for x in inputs) and q_BTNH.shape[-1] % 32 == 0
    return whole and usable(*inputs) and has_registers(HALF[q_BTNH.dtype])


def in_pairs(x_BTNH: Tensor) -> bool:
    """Whether numbers of a head lie side by side, and each head begins where a pair of them may."""
    return x_BTNH.stride(-1) == 1 and all(step % 2 == 0 for step in x_BTNH.stride()[:3])


class Attention(Function):
    """`kernels.plain_attention` where each query sees an unbroken range of keys; keeps no probabilities.

    first_BT, end_BT: int64, the first key that a query sees and the first that it does not see after it; B may be 1.
    """

    @staticmethod
    def forward(
        ctx: Any, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, first_BT: Tensor, end_BT: Tensor, scale: float
    ) -> Tensor:
        y_BTNH, log_sum_BNT = attend(q_BTNH, k_BTKH, v_BTKH, first_BT, end_BT, scale)
        ctx.save_for_backward(q_BTNH, k_BTKH, v_BTKH, y_BTNH, log_sum_BNT, first_BT, end_BT)
        ctx.scale = scale
        return y_BTNH

    @staticmethod
    def backward(ctx: Any, dy_BTNH: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        saved = ctx.saved_tensors  # once: with recomputation a second look is an error
        dq_BTNH, dk_BTKH, dv_BTKH = (torch.empty(x.shape, dtype=x.dtype) for x in saved[:3])
        attend_back(*saved, dy_BTNH, dq_BTNH, dk_BTKH, dv_BTKH, ctx.scale)
        return dq_BTNH, dk_BTKH, dv_BTKH, None, None, None


def attend(
    q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, first_BT: Tensor, end_BT: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """The result (B, T, N, H), and log(sum(exp(score))) of every query, (B, N, T)."""
    batch, length, heads, _ = q_BTNH.shape
    y_BTNH, log_sum_BNT = torch.empty(q_BTNH.shape, dtype=q_BTNH.dtype), torch.empty(batch, heads, length)
    steps = strides(q_BTNH, k_BTKH, v_BTKH)
    tensors = (q_BTNH, k_BTKH, v_BTKH, steps, y_BTNH, log_sum_BNT, first_BT, end_BT)
    share_heads("athanor_attention", tensors, scale)
    return y_BTNH, log_sum_BNT


def attend_back(
    q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, y_BTNH: Tensor, log_sum_BNT: Tensor, first_BT: Tensor,
    end_BT: Tensor, dy_BTNH: Tensor, dq_BTNH: Tensor, dk_BTKH: Tensor, dv_BTKH: Tensor, scale: float,
) -> None:  # fmt: skip
    """Write the gradients of q, k and v to the last three tensors."""
    dy_BTNH = dy_BTNH if in_pairs(dy_BTNH) else dy_BTNH.contiguous()
    heads = (q_BTNH, k_BTKH, v_BTKH, dy_BTNH, dq_BTNH, dk_BTKH, dv_BTKH)
    share_heads("athanor_attention_back", (*heads, strides(*heads), y_BTNH, log_sum_BNT, first_BT, end_BT), scale)


def strides(*heads: Tensor) -> Tensor:
    """From one row of the batch, position and head to the next, of each tensor."""
    assert all(x.stride(-1) == 1 for x in heads)
    return torch.tensor([step for x in heads for step in x.stride()[:3]])


def share_heads(name: str, tensors: tuple[Tensor, ...], scale: float) -> None:
    """Call the library for all key heads of all rows; the first two tensors are q and k, the last two the ranges."""
    q_BTNH, k_BTKH, first_BT = tensors[0], tensors[1], tensors[-2]
    batch, length, heads, size = q_BTNH.shape
    key_heads, seen_row = k_BTKH.shape[2], 0 if len(first_BT) == 1 else length
    given, run = tuple(map(pointer, tensors)), native.function(name)
    shape = (length, heads, heads // key_heads, size, ctypes.c_double(scale), HALF[q_BTNH.dtype])
    numbers = batch * heads * length * length
    share(batch * key_heads, numbers, lambda part, a, b: run(*given, seen_row, a, b, *shape))
