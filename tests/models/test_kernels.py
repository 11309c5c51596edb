"""The faster paths against the plain formulas: results and every gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from athanor.base import native
from athanor.models import cross_entropy, kernels, native_kernels
from athanor.models.language import document_starts
from athanor.models.linear import Linear

TOLERANCE = 1e-5
SCALE = 0.3  # of scores: not what any head width would give


def gradients(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """The result, then the gradient of every input for one fixed random cotangent."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    y = function(*leaves)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=y.dtype)
    y.backward(cotangent)
    return [y.detach(), *(leaf.grad for leaf in leaves)]


def assert_equal(fast: Callable[..., Tensor], plain: Callable[..., Tensor], *inputs: Tensor) -> None:
    for ours, theirs in zip(gradients(fast, [*inputs]), gradients(plain, [*inputs]), strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        assert float((ours - theirs).abs().max()) / scale < TOLERANCE
    kept = [x.clone() for x in inputs]
    with torch.no_grad():  # the way of answering, which may write over what it made, but not over its inputs
        ours, theirs = fast(*inputs), plain(*inputs)
    assert float((ours - theirs).abs().max()) / max(1.0, float(theirs.abs().max())) < TOLERANCE
    assert all(torch.equal(x, before) for x, before in zip(inputs, kept, strict=True))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(params=["library", "torch"])
def way(request, monkeypatch):
    """The C library, and what stands in for it where it was not built."""
    if request.param == "torch":
        monkeypatch.setattr(native_kernels, "usable", lambda *tensors: False)
    elif not native.available():
        pytest.skip(f"the C library is not in use: {native.describe()}")
    return request.param


@pytest.mark.parametrize("shape", [(2, 5, 32), (3, 4, 2, 16), (7, 8), (3, 19), (300, 320)])
def test_rms_norm(shape, way):
    eps = 1e-3  # large enough that forgetting it shows
    assert_equal(
        lambda x, w: kernels.rms_norm(x, w, eps), lambda x, w: kernels.plain_rms_norm(x, w, eps),
        torch.randn(shape) * 0.1, torch.randn(shape[-1]),
    )  # fmt: skip


@pytest.mark.parametrize("pairs", ["halves", "neighbours"])
@pytest.mark.parametrize("rotations", [8, 3])
@pytest.mark.parametrize("rows", [1, 2])
def test_rotate(pairs, rotations, rows, way):
    angle = torch.randn(rows, 5, 1, rotations)
    assert_equal(
        lambda x: kernels.rotate(x, angle.cos(), angle.sin(), pairs=pairs),
        lambda x: kernels.plain_rotate(x, angle.cos(), angle.sin(), pairs),
        torch.randn(2, 5, 3, 16),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_split_and_rotate(dtype):
    """The same numbers, to the bit, as splitting first, and the gradient of all heads in one piece."""
    if not native.available():
        pytest.skip(f"the C library is not in use: {native.describe()}")
    angle, joined = torch.randn(2, 9, 1, 8), torch.randn(2, 9, 8, 32).to(dtype)

    def together(x):
        return native_kernels.SplitAndRotate.apply(x, angle.cos(), angle.sin(), 4, 2)

    def apart(x):
        q, k, v = x.split((4, 2, 2), 2)
        return *(native_kernels.Rotate.apply(part, angle.cos(), angle.sin()) for part in (q, k)), v

    ours, theirs = (
        gradients(lambda x: torch.cat(together(x), 2), [joined]),
        gradients(lambda x: torch.cat(apart(x), 2), [joined]),
    )
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_rotation_turns_by_the_angle():
    """A quarter turn takes (1, 0) to (0, 1)."""
    quarter = torch.tensor([[[[torch.pi / 2]]]])
    y = kernels.rotate(torch.tensor([[[[1.0, 0.0]]]]), quarter.cos(), quarter.sin(), pairs="halves")
    assert torch.allclose(y, torch.tensor([[[[0.0, 1.0]]]]), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 5, 24), (70, 1_026), (3, 2)])
def test_swiglu(shape, way):
    assert_equal(kernels.swiglu, kernels.plain_swiglu, torch.randn(shape) * 3)


@pytest.mark.parametrize("gate", [-200.0, -88.0, 0.0, 88.0, 200.0])
def test_swiglu_far_out(gate, way):
    x = torch.tensor([[gate, 2.0]], requires_grad=True)
    y = kernels.swiglu(x)
    y.sum().backward()
    assert y.tolist() == [[pytest.approx(max(gate, 0.0) * 2, abs=1e-6)]]
    slope = 0.5 if gate == 0 else float(gate > 0)
    assert x.grad.tolist() == [[pytest.approx(2 * slope, abs=1e-6), pytest.approx(max(gate, 0.0), abs=1e-6)]]


def test_geglu_halves():
    x = torch.randn(3, 10)
    assert torch.allclose(kernels.geglu(x), kernels.gelu_tanh(x[:, :5]) * x[:, 5:])


def packed_starts(rows: int, length: int) -> Tensor:
    documents = (torch.rand(rows, length) < 0.02).long().cumsum(1)
    return document_starts(documents)


@pytest.mark.parametrize("length", [1, 7, 128, 129, 300])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("packed", [False, True])
def test_attention(length, key_heads, packed):
    starts = packed_starts(2, length) if packed else None
    mask = kernels.Mask(length, starts, torch.device("cpu"))
    assert_equal(
        lambda q, k, v: kernels.self_attention(q, k, v, mask, SCALE),
        lambda q, k, v: kernels.plain_attention(q, k, v, mask.allowed_BTS, SCALE),
        torch.randn(2, length, 4, 16), torch.randn(2, length, key_heads, 16), torch.randn(2, length, key_heads, 16),
    )  # fmt: skip


@pytest.mark.parametrize("window", [1, 50, 128, 200, 299, 300, 1_000])
@pytest.mark.parametrize("packed", [False, True])
def test_attention_through_a_window(window, packed):
    """The window written out: no key before the document, none behind the query, none further back than the window."""
    starts = packed_starts(2, 300) if packed else torch.zeros(2, 300, dtype=torch.long)
    place = torch.arange(300)
    back = place[:, None] - place
    allowed = ((back >= 0) & (back < window))[None] & (place >= starts[:, :, None])
    mask = kernels.Mask(300, starts if packed else None, torch.device("cpu"), window)
    assert torch.equal(mask.allowed_BTS.expand(2, -1, -1), allowed)
    inputs = [torch.randn(2, 300, heads, 16) for heads in (4, 2, 2)]
    assert_equal(
        lambda q, k, v: kernels.self_attention(q, k, v, mask, SCALE),
        lambda q, k, v: kernels.plain_attention(q, k, v, allowed, SCALE), *inputs,
    )  # fmt: skip
    with torch.no_grad():
        y = kernels.self_attention(*inputs, mask, SCALE)
    assert torch.allclose(y, kernels.plain_attention(*inputs, allowed, SCALE), atol=TOLERANCE)


def test_a_window_skips_keys_that_no_query_sees():
    mask = kernels.Mask(1_000, None, torch.device("cpu"), 100)
    assert max(keys.stop - keys.start for _, _, keys in mask.blocks(2)) < 100 + kernels.QUERY_BLOCK


@pytest.mark.parametrize("length", [1, 128, 129, 300])
@pytest.mark.parametrize("packed", [False, True])
def test_attention_both_ways(length, packed):
    """Everybody in a document sees everybody else in it, also where it goes on in the next block of queries."""
    document = (torch.rand(2, length) < 0.02).long().cumsum(1) if packed else torch.zeros(2, length, dtype=torch.long)
    allowed = document[:, :, None] == document[:, None]
    mask = kernels.Mask(length, document_starts(document) if packed else None, torch.device("cpu"), causal=False)
    assert_equal(
        lambda q, k, v: kernels.self_attention(q, k, v, mask, SCALE),
        lambda q, k, v: kernels.plain_attention(q, k, v, allowed, SCALE),
        *(torch.randn(2, length, heads, 16) for heads in (4, 2, 2)),
    )


def test_attention_by_a_mask_from_outside():
    allowed = (torch.rand(2, 200, 200) < 0.1) | torch.eye(200, dtype=torch.bool)
    mask = kernels.Mask(200, None, torch.device("cpu"), causal=False, allowed_BTS=allowed)
    assert_equal(
        lambda q, k, v: kernels.self_attention(q, k, v, mask, SCALE),
        lambda q, k, v: kernels.plain_attention(q, k, v, allowed, SCALE),
        *(torch.randn(2, 200, heads, 16) for heads in (4, 2, 2)),
    )


@pytest.mark.parametrize("packed", [False, True])
def test_attention_without_gradients(packed):
    mask = kernels.Mask(70, packed_starts(2, 70) if packed else None, torch.device("cpu"))
    q, k, v = torch.randn(2, 70, 4, 16), torch.randn(2, 70, 2, 16), torch.randn(2, 70, 2, 16)
    with torch.no_grad():
        fast = kernels.self_attention(q, k, v, mask, SCALE)
    assert torch.allclose(fast, kernels.plain_attention(q, k, v, mask.allowed_BTS, SCALE), atol=TOLERANCE)


def test_mask_never_crosses_a_document():
    documents = torch.tensor([[5, 5, 7, 7, 5]])
    mask = kernels.Mask(5, document_starts(documents), torch.device("cpu"))
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
    assert mask.allowed_BTS[0].int().tolist() == expected


@pytest.mark.parametrize("rows", [1, 64, 700])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_loss(rows, z_loss, way):
    targets = torch.randint(0, 50, (rows,))
    assert_equal(
        lambda h, w: cross_entropy.linear_cross_entropy(h, w, targets, z_loss)[0],
        lambda h, w: cross_entropy.plain_linear_cross_entropy(h, w, targets, z_loss)[0],
        torch.randn(rows, 16), torch.randn(50, 16),
    )  # fmt: skip


def test_a_loss_taken_back_twice_and_at_half_gives_the_gradients_of_each_time() -> None:
    """The head is the embedding, too, whose gradient may be added to the head's where it lies."""
    weight = torch.nn.Parameter(torch.randn(40, 16, generator=torch.Generator().manual_seed(3)))
    ids, targets = torch.arange(8), torch.arange(8) * 3

    def loss(function: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        return function(torch.nn.functional.embedding(ids, weight).tanh(), weight, targets)[0]

    (once,) = torch.autograd.grad(loss(cross_entropy.plain_linear_cross_entropy), weight)
    found = loss(cross_entropy.linear_cross_entropy)
    for share, times in ((1.0, 1.0), (1.0, 2.0), (0.5, 2.5)):
        found.backward(torch.tensor(share), retain_graph=True)
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, times * once, atol=1e-5, rtol=1e-5)


def test_loss_without_gradients(way):
    hidden, weight, targets = torch.randn(700, 16), torch.randn(50, 16), torch.randint(0, 50, (700,))
    total, loss = cross_entropy.plain_linear_cross_entropy(hidden, weight, targets, 0.01)
    found, losses = cross_entropy.linear_cross_entropy(hidden, weight, targets, 0.01)
    assert torch.allclose(found, total, rtol=1e-6) and torch.allclose(losses, loss, rtol=1e-6)
    trained, each = cross_entropy.linear_cross_entropy(hidden.requires_grad_(), weight, targets, 0.01)
    assert torch.allclose(trained, total, rtol=1e-6) and torch.allclose(each, loss, rtol=1e-5, atol=1e-6)
    assert not each.requires_grad


def test_loss_of_impossible_token_is_finite(way):
    hidden = torch.tensor([[1000.0, 0.0]], requires_grad=True)
    loss, _ = cross_entropy.linear_cross_entropy(hidden, torch.eye(2), torch.tensor([1]))
    loss.backward()
    assert loss.isfinite() and hidden.grad.tolist() == [[1.0, -1.0]]


def test_bf16_training_stays_near_float32():
    """The number type of training: gradients of a packed attention within the rounding of bf16."""
    starts, device = packed_starts(2, 200), torch.device("cpu")
    mask, low = kernels.Mask(200, starts, device), kernels.Mask(200, starts, device)
    inputs = [torch.randn(2, 200, heads, 16) for heads in (4, 2, 2)]
    exact = gradients(lambda q, k, v: kernels.plain_attention(q, k, v, mask.allowed_BTS, SCALE), inputs)
    rounded = gradients(lambda q, k, v: kernels.self_attention(q, k, v, low, SCALE), [x.bfloat16() for x in inputs])
    for ours, theirs in zip(rounded, exact, strict=True):
        assert float((ours.float() - theirs).norm() / theirs.norm()) < 0.02


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_without_a_number_is_none(value, way):
    hidden = torch.tensor([[value, 1.0]], requires_grad=True)
    loss, _ = cross_entropy.linear_cross_entropy(hidden, torch.eye(2), torch.tensor([1]))
    assert not loss.isfinite()


def test_bf16_of_the_library_is_rounded_once():
    """Each result within half a unit in the last place of bf16 of what float32 says, sums over rows within two."""
    if not native.available():
        pytest.skip(f"the C library is not in use: {native.describe()}")
    x, weight = torch.randn(70, 320).bfloat16(), torch.randn(320).bfloat16()
    angle = torch.randn(1, 35, 1, 16)
    cases = [
        (lambda x, w: kernels.rms_norm(x, w, 1e-5), lambda x, w: kernels.plain_rms_norm(x, w, 1e-5), [x, weight]),
        (kernels.swiglu, kernels.plain_swiglu, [x]),
        (
            lambda x: kernels.rotate(x, angle.cos(), angle.sin(), pairs="halves"),
            lambda x: kernels.plain_rotate(x, angle.cos(), angle.sin(), "halves"), [x.view(2, 35, 8, 40)],
        ),
    ]  # fmt: skip
    for fast, plain, inputs in cases:
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        y = fast(*leaves)
        y.sum().backward()
        exact = [tensor.detach().float().requires_grad_() for tensor in inputs]
        z = plain(*exact)
        z.sum().backward()
        for ours, theirs in zip([y, *(leaf.grad for leaf in leaves)], [z, *(leaf.grad for leaf in exact)], strict=True):
            error = (ours.detach().float() - theirs.detach()).abs() / (theirs.detach().abs() + 1e-2)
            assert float(error.max()) < 2**-7


@pytest.mark.parametrize(
    ("length", "heads", "key_heads", "size"),
    [(1, 2, 1, 32), (33, 4, 4, 64), (300, 4, 2, 32), (128, 2, 2, 128), (200, 3, 1, 96)],
)
@pytest.mark.parametrize("kind", ["plain", "packed", "window", "both ways"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_of_the_library(length, heads, key_heads, size, kind, dtype):
    """float32: as exact as torch. bf16: nearer to float32 than twice the rounding of what is rounded on the way."""
    needs_library(dtype)
    starts = packed_starts(2, length) if kind != "plain" else None
    window, causal = 50 if kind == "window" else None, kind != "both ways"
    mask = kernels.Mask(length, starts, torch.device("cpu"), window, causal=causal)
    allowed = mask.allowed_BTS if causal else document_starts(starts)[:, :, None] == document_starts(starts)[:, None]
    together = torch.randn(2, length, heads + 2 * key_heads, size).to(dtype)  # as one product makes them
    inputs = [x.contiguous() if kind == "packed" else x for x in together.split((heads, key_heads, key_heads), 2)]
    assert native_kernels.can_attend(*inputs)
    leaves = [x.detach().requires_grad_() for x in inputs]
    cotangent = torch.randn(2, length, heads, size).to(dtype)
    y = kernels.self_attention(*leaves, mask, SCALE)
    y.backward(cotangent)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    z = kernels.plain_attention(*exact, allowed, SCALE)
    z.backward(cotangent.double())
    for ours, theirs in zip([y, *(x.grad for x in leaves)], [z, *(x.grad for x in exact)], strict=True):
        far = (ours - theirs).detach()
        if dtype == torch.float32:
            assert float(far.abs().max()) < TOLERANCE * max(1.0, float(theirs.detach().abs().max()))
        else:
            assert float(far.norm()) < 2**-7 * float(theirs.norm()) + 1e-6
    with torch.no_grad():
        assert torch.equal(kernels.self_attention(*inputs, mask, SCALE), y)


def needs_library(dtype: torch.dtype) -> None:
    if not native_kernels.has_registers(native_kernels.HALF[dtype]):
        pytest.skip(f"the C library is not in use, or the processor does not multiply {dtype} as it needs it")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_change_no_result(dtype):
    """Heads are computed alone, so that their number decides nothing."""
    inputs = [torch.randn(3, 150, heads, 32).to(dtype).requires_grad_() for heads in (4, 2, 2)]
    mask, threads, found = kernels.Mask(150, None, torch.device("cpu")), torch.get_num_threads(), []
    for count in (1, 3):
        torch.set_num_threads(count)
        y = kernels.self_attention(*inputs, mask, SCALE)
        found.append([y, *torch.autograd.grad(y.sum(), inputs)])
    torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_of_the_library_hides_no_trouble(dtype):
    """A query, a key or a value that is no number leaves none in what saw it, and nothing elsewhere."""
    needs_library(dtype)
    mask = kernels.Mask(200, None, torch.device("cpu"))
    for place in range(3):
        inputs = [torch.randn(1, 200, 2, 32).to(dtype) for _ in range(3)]
        inputs[place][0, 150, 1, 3] = float("nan")
        y = native_kernels.Attention.apply(*inputs, *mask.ranges, SCALE)
        assert y[0, 150, 1].isnan().any() and not y[0, :128].isnan().any() and not y[0, :, 0].isnan().any()


def needs_products(dtype):
    if not native.available() or not native_kernels.has_products(native_kernels.HALF[dtype]):
        pytest.skip(f"the C library does not multiply here: {native.describe()}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", [(64, 32, 32), (130, 34, 66), (2, 300, 128, 1000), (1400, 704, 96)])
def test_products_of_the_library(shape, threads, dtype):
    """Result and gradients of a layer within one rounding of what float64 says, also where no tile or panel is full."""
    needs_products(dtype)
    layer, dy = Linear(shape[-2], shape[-1]).to(dtype), torch.randn(*shape[:-2], shape[-1]).to(dtype)
    x = torch.randn(shape[:-1]).to(dtype).requires_grad_()
    assert native_kernels.can_multiply(x, layer.weight)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        y = layer(x)
        y.backward(dy)
    finally:
        torch.set_num_threads(before)
    x_64, weight_64, dy_64 = (t.detach().double() for t in (x, layer.weight, dy))
    product = x_64 @ weight_64.T
    dweight = dy_64.flatten(0, -2).T @ x_64.flatten(0, -2)
    last, sums = (2**-8, 1e-6) if dtype == torch.bfloat16 else (2**-22, 2e-6)  # the number's last place, and the sum's
    found = (y - layer.bias, product), (x.grad, dy_64 @ weight_64), (layer.weight.grad, dweight)
    for ours, exact in found[1:]:
        assert bool(((ours - exact).abs() <= last * exact.abs() + sums * exact.abs().max()).all())
    slack = last * (product.abs() + (product + layer.bias.detach().double()).abs())  # rounded, then the bias is added
    assert bool(((y - (product + layer.bias)).abs() <= slack + sums * product.abs().max()).all())


def test_a_product_is_added_to_what_there_is():
    needs_products(torch.bfloat16)
    a, b, total = torch.randn(600, 50).bfloat16(), torch.randn(600, 70).bfloat16(), torch.randn(50, 70)
    expected = total.double() + a.double().T @ b.double()
    native_kernels.product_down(a, b, total)
    assert torch.allclose(total.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_by_products_of_the_library(dtype):
    """A head that is wide enough for them; more rows than one chunk."""
    needs_products(dtype)
    targets, hidden, weight = torch.randint(0, 200, (700,)), torch.randn(700, 64), torch.randn(200, 64) / 8
    inputs = [hidden.to(dtype), weight.to(dtype)]
    assert native_kernels.can_multiply(*inputs)
    found = gradients(lambda h, w: cross_entropy.linear_cross_entropy(h, w, targets)[0], inputs)
    exact = gradients(
        lambda h, w: cross_entropy.plain_linear_cross_entropy(h, w, targets)[0], [x.double() for x in inputs]
    )
    tolerance = 0.01 if dtype == torch.bfloat16 else 1e-5
    for ours, theirs in zip(found, exact, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < tolerance


def test_loss_of_rows_that_lie_apart_in_memory(way):
    """A head is given rows as they come, such as the columns of a turned matrix."""
    targets, weight = torch.randint(0, 200, (700,)), torch.randn(200, 64) / 8
    assert_equal(
        lambda h, w: cross_entropy.linear_cross_entropy(h.t(), w, targets)[0],
        lambda h, w: cross_entropy.plain_linear_cross_entropy(h.t(), w, targets)[0],
        torch.randn(64, 700), weight,
    )  # fmt: skip


def test_frozen_weights_and_frozen_inputs_get_no_gradient():
    needs_products(torch.float32)
    layer, x = Linear(64, 64), torch.randn(64, 64, requires_grad=True)
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is None and torch.allclose(x.grad, layer.weight.sum(0).expand(64, 64), atol=1e-5)
    layer.weight.requires_grad_(True)
    layer(x.detach()).sum().backward()
    assert torch.allclose(layer.weight.grad, x.detach().sum(0).expand(64, 64), atol=1e-4)


def test_adding_halves():
    """bf16 numbers are added to float32 ones as torch adds them, in the parts that several threads take."""
    if not native.available():
        pytest.skip(f"the C library is not in use: {native.describe()}")
    total, part = torch.randn(70_001), torch.randn(70_001).bfloat16()
    expected = total + part
    native_kernels.add(total, part)
    assert torch.equal(total, expected)
