"""Learning-rate schedules: the share of the peak rate at every step."""

import math
from typing import Literal

Shape = Literal["cosine", "linear", "wsd", "constant"]
WSD_DECAY = 0.3  # share of the run in which a warmup-stable-decay schedule falls to zero


def rate_share(shape: Shape, step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate at `step` of `steps`, after a linear warm-up of `warmup` steps.

    cosine: half a cosine to zero (Loshchilov & Hutter 2017); linear: a straight line to zero;
    wsd: constant, then linear to zero over the last 30 % (MiniCPM, Hu et al. 2024); constant: no decay.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if shape == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if shape == "linear":
        return 1 - done
    if shape == "wsd":
        return min(1.0, (1 - done) / WSD_DECAY)
    return 1.0
