"""The one dial: `scale` decides every number that a recipe leaves out, and says why."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from athanor.base.errors import AthanorError
from athanor.base.settings import nearest


@dataclass(frozen=True)
class Choice:
    """A value and the reason for it."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Scale:
    """One position of the dial: the numbers of every step, by step and setting, each with its reason."""

    about: str
    steps: Mapping[str, Mapping[str, Choice]]


NANO = Scale(
    "a few CPU minutes: learns skills and the look of its documents, not facts",
    {
        "skills": {"conversations": Choice(96_000, "as many as fine-tuning sees about once")},
        "tokenizer": {"vocabulary": Choice(4096, "the head is a fifth of the work at this width; larger costs more than it saves")},
        "pretrain": {
            "layers": Choice(4, "depth is cheap to learn from, and four layers are enough to copy, sort and count"),
            "width": Choice(192, "the widest that sees every skill often enough in three minutes"),
            "heads": Choice(3, "64 numbers per head, the width attention was tuned for"),
            "hidden": Choice(512, "8/3 of the width, as SwiGLU needs (Shazeer 2020)"),
            "context": Choice(256, "conversations of the quickstart are below 100 tokens; attention stays cheap"),
            "rows": Choice(16, "4,096 tokens a step: many small steps teach more than few large ones in minutes"),
            "steps": Choice(450, "past the compressor's bits per byte with a margin; the rest of the time goes to skills"),
            "learning_rate": Choice(0.02, "Muon at small width; half of it learns slower, twice as much is unstable"),
            "schedule": Choice("wsd", "most learning at the full rate, then a straight line to zero"),
        },
        "finetune": {
            "rows": Choice(16, "as in pretraining"),
            "steps": Choice(1500, "skills are past 90 %"),
            "learning_rate": Choice(0.01, "half of pretraining's, the weights are no longer random"),
            "schedule": Choice("wsd", "as in pretraining"),
        },
    },
)
SCALES: Mapping[str, Scale] = {"nano": NANO}


def choose(scale: str, do: str) -> dict[str, Choice]:
    """The dial's values for one step, by setting name, with the number type this machine is fast in.

    Raises:
        AthanorError: the scale is not on the dial.
    """
    if scale not in SCALES:
        raise AthanorError(f"scale={scale!r} is not on the dial", allowed=", ".join(SCALES), fix=nearest(scale, SCALES))
    chosen = dict(SCALES[scale].steps.get(do, {}))
    if do in ("pretrain", "finetune"):
        chosen["dtype"] = _dtype()
    return chosen


def _dtype() -> Choice:
    from athanor.base.device import fast_dtype, pick_device

    name = str(fast_dtype(pick_device())).removeprefix("torch.")
    if name == "bfloat16":
        return Choice(name, "this machine multiplies bf16 in hardware; the optimiser keeps fp32 weights")
    return Choice(name, "this machine has no bf16 hardware: fp32 is faster here")
