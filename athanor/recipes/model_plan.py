"""What one model takes on a named machine: bytes, FLOPs, tokens per second, training time and cost, by formula.

Speeds are bounds: nothing is slower than reading the weights at the full bandwidth or multiplying at the full peak.
Quantised bytes are those of our own format (`inference/quantize.py`). Letters as in `models/shapes.py`; B rows.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from athanor.base.errors import AthanorError
from athanor.base.machines import Machine
from athanor.inference.quantize import Quantization
from athanor.models.published import Published
from athanor.models.shapes import (
    TRAINING_BYTES,
    AnyShape,
    Shape,
    accelerator_years,
    active_parameters,
    cache_bytes_per_token,
    count_parameters,
    describe,
    flops_per_token,
    forward_flops,
    training_flops,
)

BITS = (4, 8, 16, 32)
SCALE_BYTES = 2  # scales and zeros are bf16, and so are cache and activations, except with 32 bits
USABLE = 0.9  # of a machine's memory; the rest is the runtime's
CHUNK = 2_048  # prompt tokens computed at once, as in `inference/batch.py`
HOUR = 3_600


@dataclass(frozen=True, kw_only=True)
class Load:
    """How a model is to be used.

    Attributes:
        bits: per weight; 4 and 8 are quantised, 16 is bf16, 32 is fp32.
        context: tokens each row holds.
        batch: rows decoded together.
    """

    bits: int = 16
    context: int = 2_048
    batch: int = 1

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise AthanorError(f"bits={self.bits}", allowed=", ".join(map(str, BITS)))
        for name in ("context", "batch"):
            if getattr(self, name) < 1:
                raise AthanorError(f"{name}={getattr(self, name)}", allowed="1 or more")

    @property
    def number_bytes(self) -> int:
        """Bytes of a number in the cache and of an activation."""
        return 4 if self.bits == 32 else 2


@dataclass(frozen=True)
class Needs:
    """Bytes that a model in use holds."""

    weights: int
    cache: int
    activations: int

    @property
    def total(self) -> int:
        """The sum, in bytes."""
        return self.weights + self.cache + self.activations


def quantized_bytes(numbers: int, rows: int, bits: int, group: int, symmetric: bool) -> int:
    """Bytes of a matrix: INT4 has a scale (and a zero, unless symmetric) per group, INT8 a scale per row."""
    if bits == 4:
        return numbers // 2 + numbers // group * SCALE_BYTES * (1 if symmetric else 2)
    return numbers + rows * SCALE_BYTES if bits == 8 else numbers * bits // 8


def weight_bytes(config: AnyShape, bits: int, how: Quantization | None = None) -> int:
    """Bytes of all weights; quantised: matrices in `bits`, embedding and head as `how` says, the rest in bf16."""
    s, how = describe(config), how or Quantization()
    if bits >= 16:
        return count_parameters(s) * bits // 8
    total, counted = 0, 0
    for numbers, rows, inside in _matrices(s):
        wanted = bits if inside else max(bits, how.embedding_bits, how.head_bits)
        total += quantized_bytes(numbers, rows, wanted, how.group_size, how.symmetric)
        counted += numbers
    return total + (count_parameters(s) - counted) * SCALE_BYTES


def embedding_bytes(s: Shape, bits: int) -> int:
    """Bytes of the token embedding, in INT8 where the layers have fewer bits."""
    numbers, how = s.vocabulary * (s.embedding_width or s.width), Quantization()
    wide = bits if bits >= 16 else max(bits, how.embedding_bits)
    return quantized_bytes(numbers, s.vocabulary, wide, how.group_size, how.symmetric)


def _matrices(s: Shape) -> Iterator[tuple[int, int, bool]]:
    """(numbers, rows, inside a layer) of every matrix, those of one kind together."""
    for _ in range(1 if s.tied else 2):
        yield s.vocabulary * (s.embedding_width or s.width), s.vocabulary, False
    attentions = s.layers * (2 if s.cross else 1)
    rows = (s.heads + 2 * s.key_heads) * s.head_size
    yield attentions * rows * s.width, attentions * rows, True
    yield attentions * s.heads * s.head_size * s.width, attentions * s.width, True
    plain = s.layers - s.routed_layers
    for layers, hidden in ((plain, s.hidden), (s.routed_layers * s.experts, s.expert_hidden or s.hidden)):
        up = hidden * (2 if s.gated else 1)
        yield layers * up * s.width, layers * up, True
        yield layers * hidden * s.width, layers * s.width, True
    if s.routed_layers:
        yield s.routed_layers * s.experts * s.width, s.routed_layers * s.experts, True


def bytes_read(config: AnyShape, load: Load) -> int:
    """Bytes of weights that one decoding step reads: all but an untied embedding, and the experts anyone was sent to.

    With rows sent independently, a share 1 - (1 - C/X)^B of the experts is read (X experts, C of them per token).
    """
    s = describe(config)
    touched = math.ceil(s.experts * (1 - (1 - s.active_experts / s.experts) ** load.batch)) if s.routed_layers else 1
    read = weight_bytes(replace(s, experts=max(touched, s.active_experts)) if s.routed_layers else s, load.bits)
    return read if s.tied else read - embedding_bytes(s, load.bits)


def memory_needs(model: Published, load: Load) -> Needs:
    """Bytes of weights, of keys and values of B full rows, and of the widest moment of a forward pass.

    Activations: for the tokens computed at once the stream and its normalised copy (2 D), and the larger of queries,
    keys, values and result or the feed-forward layer before and after its activation (gated: both halves and their
    product); and fp32 logits of one token per row.
    Attention scores are never stored (fused kernels).
    """
    weights = sum(weight_bytes(part, load.bits) for part in model.parts)
    s = describe(model.parts[-1])
    tokens = load.batch * load.context
    cache = tokens * cache_bytes_per_token(s, load.number_bytes) if model.decodes else 0
    attention = (2 * s.heads + 2 * s.key_heads) * s.head_size
    hidden = s.active_experts * (s.expert_hidden or s.hidden) if s.routed_layers else s.hidden
    widest = max(attention, (3 if s.gated else 2) * hidden)
    activations = min(tokens, CHUNK) * (2 * s.width + widest) * load.number_bytes + load.batch * s.vocabulary * 4
    return Needs(weights, cache, activations)


@dataclass(frozen=True)
class Use:
    """A model in use on one machine.

    Attributes:
        fits: whether everything has room in nine tenths of the memory.
        would_fit: what to change where it does not, the smallest change first.
        bandwidth_rate, compute_rate: tokens per second, all rows together, that either alone would allow.
        prefill_seconds: until B prompts of the whole context are read, at least.
    """

    fits: bool
    would_fit: tuple[str, ...]
    bandwidth_rate: float | None
    compute_rate: float | None
    prefill_seconds: float | None

    @property
    def rate(self) -> float | None:
        """Tokens per second at most: the lower bound decides."""
        return None if self.bandwidth_rate is None or self.compute_rate is None else min(self.bandwidth_rate,
                                                                                         self.compute_rate)  # fmt: skip


def use_on(model: Published, load: Load, machine: Machine) -> Use:
    """Room and speed of a model on a machine."""
    needs = memory_needs(model, load)
    fits = needs.total <= USABLE * machine.memory
    changes = () if fits else tuple(_changes(model, load, machine))
    if not model.decodes:
        return Use(fits, changes, None, None, None)
    s = describe(model.parts[-1])
    peak = machine.single if load.bits == 32 else machine.half
    step_bytes = bytes_read(s, load) + needs.cache
    # A prompt's first tokens see few keys, its last ones all: half of the context on average.
    reading = load.batch * load.context * forward_flops(s, (load.context + 1) // 2) / peak
    loading = math.ceil(load.batch * load.context / CHUNK) * needs.weights / machine.bandwidth
    return Use(
        fits, changes, load.batch * machine.bandwidth / step_bytes, peak / forward_flops(s, load.context),
        max(reading, loading),
    )  # fmt: skip


def _changes(model: Published, load: Load, machine: Machine) -> Iterator[str]:
    """What would make it fit: fewer bits, else a shorter context, else fewer rows; and how many machines as it is."""
    room = USABLE * machine.memory
    for bits in sorted((bits for bits in BITS if bits < load.bits), reverse=True):
        if memory_needs(model, replace(load, bits=bits)).total <= room:
            yield f"--bits {bits}"
            break
    for rows in sorted({load.batch, 1}, reverse=True):
        context = load.context
        while context > 1 and memory_needs(model, replace(load, context=context, batch=rows)).total > room:
            context //= 2
        if context > 1:
            yield (f"--context {context}" if context < load.context else "") + (
                f" --batch {rows}" if rows < load.batch else ""
            )
            break
    yield f"{math.ceil(memory_needs(model, load).total / room)} of them"


@dataclass(frozen=True)
class Training:
    """Training a model on one kind of machine.

    Attributes:
        flops: with attention; `rule_flops` by 6 N D.
        machines: fewest that hold 16 bytes per weight.
        seconds: with that many.
        dollars, joules: of all of them; None: price or power not known.
        years_on_one: machine-years; memory left aside.
    """

    flops: float
    rule_flops: float
    machines: int
    seconds: float
    dollars: float | None
    joules: float | None
    years_on_one: float


def train_on(model: Published, tokens: float, context: int, machine: Machine) -> Training:
    """Time, cost and energy of training on `tokens`, at the share of the peak that the machine's row names."""
    flops = sum(flops_per_token(part, context) for part in model.parts) * tokens
    rule = training_flops(sum(active_parameters(part) for part in model.parts), tokens)
    speed = machine.half * machine.training_share
    count = math.ceil(TRAINING_BYTES * model.parameters / (USABLE * machine.memory))
    work = flops / speed  # machine-seconds
    dollars = None if machine.dollars is None else work / HOUR * machine.dollars
    joules = None if machine.watts is None else work * machine.watts
    return Training(flops, rule, count, work / count, dollars, joules, accelerator_years(flops, speed))


def assumptions(load: Load, machines: Mapping[str, Machine], tokens: float | None) -> list[str]:
    """Everything the numbers rest on, in sentences."""
    how = Quantization()
    zeros = "a scale" if how.symmetric else "a scale and a zero"
    stored = {
        4: f"INT4 with {zeros} in bf16 per {how.group_size} weights, embedding and head INT8, the rest bf16",
        8: "INT8 with a bf16 scale per row, the rest bf16",
        16: "bf16",
        32: "fp32",
    }[load.bits]
    lines = [
        f"weights: {stored}; cache and activations in {'fp32' if load.bits == 32 else 'bf16'}",
        f"cache: {load.batch} × {load.context:,} positions kept in every layer, windows or not",
        f"activations: at most {CHUNK:,} prompt tokens computed at once, attention scores never stored",
        f"fits: everything within {USABLE:.0%} of the memory",
        "decoding: bounds at the full bandwidth and the full peak, quantised weights multiplied as 16-bit floats",
        "prefill: at the full peak, the masked half of attention skipped",
        "FLOPs per token: forward 2 M + 4 L N H T, training three times that (PaLM, appendix B)",
    ]
    for name, machine in machines.items():
        price = "no price at hand" if machine.dollars is None else f"${machine.dollars} an hour: {machine.priced}"
        watts = "power not known" if machine.watts is None else f"{machine.watts:.0f} W"
        lines.append(
            f"{name}: {machine.about}, {machine.half / 1e12:.4g} TFLOP/s in 16 bits, {machine.bandwidth / 1e9:,.0f} "
            f"GB/s ({machine.source}); {watts}; {price}"
        )
        if tokens:
            lines[-1] += f"; training sustains {machine.training_share:.0%} of the peak"
    if tokens:
        lines.append(f"training: {TRAINING_BYTES} bytes per weight (activations and their exchange come on top)")
    return lines
