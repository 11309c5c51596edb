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
        "skills": {
            "conversations": Choice(
                130_000, "fine-tuning sees each about once: new problems teach more than repeated ones"
            )
        },
        "tokenizer": {
            "vocabulary": Choice(4096, "the head is a quarter of the work already; more costs more than it saves")
        },
        "pretrain": {
            "layers": Choice(4, "enough to copy, compare, sort and count"),
            "width": Choice(128, "192 learns as much per token and takes twice the time"),
            "heads": Choice(4, "32 numbers per head: four patterns of attention learn more than two"),
            "hidden": Choice(384, "three times the width; SwiGLU's 8/3 (Shazeer 2020) rounded up to a multiple of 128"),
            "context": Choice(256, "the quickstart's conversations are below 200 tokens; attention stays cheap"),
            "rows": Choice(16, "4,096 tokens a step: in minutes, many small steps teach more than few large ones"),
            "steps": Choice(800, "well past LZMA's bits per byte; the rest of the time goes to skills"),
            "learning_rate": Choice(0.015, "0.02 and 0.015 learn alike with Muon at this width; 0.03 is worse"),
            "schedule": Choice(
                "linear", "a straight line to zero needs no tuning and loses nothing in runs this short"
            ),
        },
        "finetune": {
            "rows": Choice(14, "with two rows of documents, 4,096 tokens a step as in pretraining"),
            "document_rows": Choice(
                2, "keeps what pretraining taught: with one row bits per byte rise to 1.54, with two they stay at 1.33"
            ),
            "steps": Choice(1200, "93 % of answers are right by then, 90 % at 1,000 steps"),
            "learning_rate": Choice(0.015, "0.03 was worse: 68 % against 72 % of answers right after 600 steps"),
            "schedule": Choice("linear", "skills are learnt while the rate falls"),
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
