"""Rotary positions: the angle of every pair, and four ways to stretch them beyond the context of pretraining.

Shape letters: B batch, T positions, R rotated pairs of a head. In the formulas f is the frequency of a pair, s the
factor, d the count of rotated numbers of a head, b the base.
"""

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from athanor.models.config import TransformerConfig

NEEDED = {
    "linear": frozenset(),
    "dynamic": frozenset(),
    "yarn": frozenset({"original_positions", "attention_factor", "beta_fast", "beta_slow", "whole_bounds"}),
    "llama3": frozenset({"original_positions", "low_factor", "high_factor"}),
}


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotations are slowed down; every number a kind uses is set, and no other.

    Attributes:
        kind: linear (kaiokendev 2023), dynamic (NTK-aware, bloc97 and emozilla 2023), yarn (Peng et al. 2023), llama3.
        factor: how many times longer the context becomes.
        original_positions: the context of pretraining (yarn, llama3).
        attention_factor: what cosine and sine are multiplied by (yarn).
        beta_fast: a pair that turns more often than this within the original context is left alone (yarn).
        beta_slow: a pair that turns less often is slowed by the whole factor (yarn).
        whole_bounds: whether the two bounds are rounded to whole pairs, outwards (yarn).
        low_factor: wavelengths above original_positions / low_factor are stretched by the whole factor (llama3).
        high_factor: wavelengths below original_positions / high_factor are left alone (llama3).

    Raises:
        ValueError: a number is missing, has no meaning for the kind, or is out of range.
    """

    kind: Literal["linear", "dynamic", "yarn", "llama3"]
    factor: float
    original_positions: int | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    whole_bounds: bool | None = None
    low_factor: float | None = None
    high_factor: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in NEEDED:
            raise ValueError(f"rope scaling {self.kind!r}: must be one of {', '.join(NEEDED)}")
        optional = {field.name for field in fields(self)} - {"kind", "factor"}
        given = {name for name in optional if getattr(self, name) is not None}
        if given != NEEDED[self.kind]:
            wrong = ", ".join(sorted(given ^ NEEDED[self.kind]))
            raise ValueError(f"rope scaling {self.kind!r} takes {sorted(NEEDED[self.kind])}: see {wrong}")
        for name in given - {"whole_bounds"} | {"factor"}:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"rope scaling {self.kind!r}: {name}={getattr(self, name)} must be above 0")
        if self.factor < 1:
            raise ValueError(f"rope scaling {self.kind!r}: factor={self.factor} must be at least 1")
        if self.kind == "llama3" and not self.low_factor < self.high_factor:
            raise ValueError(f"llama3: low_factor={self.low_factor} must be below high_factor={self.high_factor}")


def rope_angles(
    config: "TransformerConfig", positions_BT: Tensor, starts_BT: Tensor | None = None
) -> tuple[tuple[Tensor, Tensor], ...]:
    """The tables of every axis of a position: one, or two for positions (B, T, 2) (ChatGLM-6B; Zeng et al. 2022)."""
    if config.position_axes == 1:
        return (rope_table(config, positions_BT, starts_BT),)
    return tuple(rope_table(config, axis_BT, starts_BT) for axis_BT in positions_BT.unbind(-1))


def rope_table(
    config: "TransformerConfig", positions_BT: Tensor, starts_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every rotation, (B, T, 1, R) float32 each (RoFormer, Su et al. 2021, section 3.2.2).

    Args:
        config: base, share and scaling.
        positions_BT: the number each position is rotated by.
        starts_BT: first position of each position's document; dynamic scaling looks at the length of each document.
    """
    rotated = config.rotated // config.position_axes
    pair_R = torch.arange(0, rotated, 2, device=positions_BT.device, dtype=torch.float32)
    scaling, factor = config.rope_scaling, 1.0
    if scaling is not None and scaling.kind == "dynamic":
        length_BT = document_lengths(positions_BT, starts_BT)
        base_BT11 = dynamic_base(scaling, config, length_BT)[..., None, None]
        frequency_R = base_BT11 ** (-pair_R / rotated)
    else:
        frequency_R = config.rope_base ** (-pair_R / rotated)
        if scaling is not None:
            frequency_R = SCALED[scaling.kind](scaling, frequency_R, config)
            factor = scaling.attention_factor or 1.0
    angle_BT1R = positions_BT[:, :, None, None].float() * frequency_R
    return angle_BT1R.cos() * factor, angle_BT1R.sin() * factor


def document_lengths(positions_BT: Tensor, starts_BT: Tensor | None) -> Tensor:
    """One more than the largest position in each position's document, (B, T) or (B, 1)."""
    if starts_BT is None:
        return positions_BT.amax(1, keepdim=True) + 1
    longest_BT = torch.zeros_like(positions_BT).scatter_reduce(1, starts_BT, positions_BT + 1, "amax")
    return longest_BT.gather(1, starts_BT)


def dynamic_base(scaling: RopeScaling, config: "TransformerConfig", length_BT: Tensor) -> Tensor:
    """b (s L / P - (s - 1))^(d / (d - 2)) for texts of L > P positions, P = max_positions: f of the slowest pair / s.

    Earlier keys keep the angles they were stored with, as in `transformers`: with a cache, each call takes the length
    reached by then (NTK-aware scaling, bloc97 2023; its dynamic form, emozilla 2023).
    """
    share_BT = length_BT.float().clamp_min(config.max_positions) / config.max_positions
    stretch_BT = scaling.factor * share_BT - (scaling.factor - 1)
    return config.rope_base * stretch_BT ** (config.rotated / (config.rotated - 2))


def linear(scaling: RopeScaling, frequency_R: Tensor, config: "TransformerConfig") -> Tensor:
    """f / s: the same as dividing the positions (kaiokendev 2023; Chen et al. 2023, equation 4)."""
    return frequency_R / scaling.factor


def yarn(scaling: RopeScaling, frequency_R: Tensor, config: "TransformerConfig") -> Tensor:
    """(1 - g) f / s + g f, where g falls from 1 to 0 between two bounds (YaRN, Peng et al. 2023, section 3.2)."""

    def pair_that_turns(times: float) -> float:
        """The (fractional) pair that turns so many times within the original context."""
        wavelength = scaling.original_positions / (times * 2 * math.pi)
        return config.rotated * math.log(wavelength) / (2 * math.log(config.rope_base))

    low, high = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.whole_bounds:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.rotated - 1)
    high += 0.001 if low == high else 0  # as in the source: a step instead of a division by zero
    number_R = torch.arange(len(frequency_R), device=frequency_R.device, dtype=torch.float32)
    slowed_R = ((number_R - low) / (high - low)).clamp(0, 1)
    return frequency_R / scaling.factor * slowed_R + frequency_R * (1 - slowed_R)


def llama3(scaling: RopeScaling, frequency_R: Tensor, config: "TransformerConfig") -> Tensor:
    """f / s for long wavelengths, f for short ones, a mixture between (Llama 3.1, `apply_scaling` of its release).

    With w = P f / 2 pi the turns within the original P positions: g = (w - low) / (high - low), clipped to [0, 1], and
    (1 - g) f / s + g f.
    """
    turns_R = scaling.original_positions * frequency_R / (2 * math.pi)
    kept_R = ((turns_R - scaling.low_factor) / (scaling.high_factor - scaling.low_factor)).clamp(0, 1)
    return frequency_R / scaling.factor * (1 - kept_R) + frequency_R * kept_R


SCALED = {"linear": linear, "yarn": yarn, "llama3": llama3}


def yarn_attention_factor(factor: float, mscale: float = 1.0) -> float:
    """What YaRN multiplies cosine and sine by when config.json does not say: 0.1 m ln s + 1 (section 3.4)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
