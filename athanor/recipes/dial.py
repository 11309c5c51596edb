"""The one dial: `scale` decides every number that a recipe leaves out, and says why.

`nano` was measured here, number by number. The larger scales follow from their shape by published rules (`derived`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from athanor.base.errors import AthanorError
from athanor.base.settings import nearest
from athanor.base.tables import size
from athanor.models.config import TransformerConfig
from athanor.models.shapes import (
    SHAPES,
    count_parameters,
    training_flops,
    training_memory,
)
from athanor.recipes.spread import HELD, Spread, fewest_machines


@dataclass(frozen=True)
class Choice:
    """A value and the reason for it."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Scale:
    """One position of the dial: the numbers of every step, by step and setting, each with its reason.

    Attributes:
        spread: the machines it is meant for; None: one computer.
    """

    about: str
    steps: Mapping[str, Mapping[str, Choice]]
    spread: Spread | None = None


NANO = Scale(
    "a few CPU minutes: learns skills and the look of its documents, not facts",
    {
        "skills": {
            "conversations": Choice(130_000, "fine-tuning sees each about once, so that little is learnt by heart")
        },
        "tokenizer": {
            "vocabulary": Choice(4096, "the head is a third of the weights already; other sizes were not tried")
        },
        "pretrain": {
            "layers": Choice(4, "enough to copy, compare, sort and count"),
            "width": Choice(128, "192 learns as much per token and takes twice the time"),
            "heads": Choice(4, "32 numbers per head; other numbers of heads were not tried"),
            "hidden": Choice(384, "three times the width; SwiGLU's 8/3 (Shazeer 2020) rounded up to a multiple of 128"),
            "context": Choice(256, "the quickstart's conversations fit, and attention stays cheap"),
            "rows": Choice(16, "4,096 tokens a step: in minutes, many small steps teach more than few large ones"),
            "steps": Choice(800, "well past LZMA's bits per byte; the rest of the time goes to skills"),
            "learning_rate": Choice(0.015, "the rate fine-tuning does best with; 0.02 learnt as well in pretraining"),
            "schedule": Choice("linear", "a straight line to zero needs no tuning; other schedules were not compared"),
        },
        "finetune": {
            "rows": Choice(14, "with two rows of documents, 4,096 tokens a step as in pretraining"),
            "document_rows": Choice(
                2, "keeps what pretraining taught: with one row bits per byte rise to 1.54, with two they stay at 1.33"
            ),
            "steps": Choice(1200, "93 % of answers are right by then, 90 % at 1,000 steps"),
            "learning_rate": Choice(0.015, "0.03 was worse: 68 % against 72 % of answers right after 600 steps"),
            "schedule": Choice("linear", "as in pretraining"),
        },
    },
)
CHINCHILLA = 20  # tokens per weight (Hoffmann et al. 2022, section 3, table 3)
ROOM = 6e9  # bytes of activations that a computer with 16 GB spares
CONVERSATIONS, CONVERSATION_TOKENS = 130_000, 33  # as at nano
MOST_CHATS = 32  # rows of a fine-tuning step (InstructGPT, Ouyang et al. 2022, appendix C.1)


def best_batch(flops: float) -> float:
    """Tokens per step: 0.2920 C^0.3271 (DeepSeek LLM, Bi et al. 2024, equation 1)."""
    return 0.2920 * flops**0.3271


def best_rate(flops: float) -> float:
    """Peak learning rate at that batch: 0.3118 C^-0.1250 (DeepSeek LLM, Bi et al. 2024, equation 1)."""
    return 0.3118 * flops**-0.1250


def rows_with_room(config: TransformerConfig, context: int, most: float) -> int:
    """The largest power of two of rows whose activations have room, and that is at most `most`."""
    rows = 1
    while 2 * rows <= most and training_memory(config, rows=2 * rows, context=context).activations <= ROOM:
        rows *= 2
    return rows


def derived(about: str, config: TransformerConfig, why: str, one_computer: bool = True) -> Scale:
    """A scale whose every number follows from its shape.

    Args:
        config: the shape; trained in Qwen3's family as every scale.
        why: the reason for the shape.
        one_computer: whether one computer can train it; else it takes the whole best batch, spread over machines.
    """
    count, context = count_parameters(config), config.max_positions
    tokens = CHINCHILLA * count
    flops = training_flops(count, tokens)
    wanted = best_batch(flops) / context
    rows = rows_with_room(config, context, wanted)
    spread = None if one_computer else fewest_machines(config, tokens, wanted)
    if spread is not None:
        rows = spread.devices * spread.rows * spread.accumulate
    rate = float(f"{best_rate(flops) * (rows / wanted) ** 0.5:.2g}")
    pretrain = {
        **{name: Choice(getattr(config, name), why) for name in ("layers", "width", "heads", "kv_heads", "hidden")},
        "context": Choice(context, "the longest row this shape was made for"),
        "rows": Choice(rows, _why_rows(rows, wanted, context, not one_computer)),
        "steps": Choice(
            -(-tokens // (rows * context)),
            f"20 tokens for each of {count:,} weights, {tokens:,} in all (Chinchilla, Hoffmann et al. 2022)",
        ),
        "learning_rate": Choice(
            rate,
            f"0.3118 C^-0.125 = {best_rate(flops):.2g} for C = {flops:.2g} FLOPs (DeepSeek LLM, equation 1), times the "
            "root of the batch's share (Malladi et al. 2022); Muon's step has AdamW's size, so the rule carries over",
        ),
        "warmup": Choice(2_000, "as DeepSeek LLM (Bi et al. 2024, section 2.3)"),
        "schedule": Choice("linear", "to zero: best at 20 tokens per weight and more (Bergsma et al. 2025)"),
        **({} if spread is None else _spreading(spread)),
    }
    return Scale(
        about,
        {
            "skills": {"conversations": Choice(CONVERSATIONS, "as at nano: the skills are the same")},
            "tokenizer": {"vocabulary": Choice(config.vocabulary, why)},
            "pretrain": pretrain,
            "finetune": _finetuning(rows, context, rate) | ({} if spread is None else _divided_finetuning(spread)),
        },
        spread,
    )


def _spreading(spread: Spread) -> dict[str, Choice]:
    return {
        **_dividing(spread),
        "accumulate": Choice(
            spread.accumulate, f"{spread.devices} devices have room for {spread.rows} rows each; a step has more"
            if spread.accumulate > 1 else f"{spread.devices} devices with {spread.rows} rows each take a step at once",
        ),
    }  # fmt: skip


def _dividing(spread: Spread) -> dict[str, Choice]:
    held = f"{HELD} bytes for every weight have no room on one device of {size(spread.machine.memory)}"
    return {
        "engine": Choice("fsdp2", f"{held}: each holds a share (ZeRO, Rajbhandari et al. 2020)"),
        "recompute": Choice(True, "what layers keep would take several times a device's memory (Chen et al. 2016)"),
    }


def _divided_finetuning(spread: Spread) -> dict[str, Choice]:
    """Fine-tuning on machines that the model has to be divided among; more of them than rows take a row each."""
    each = f"one for each of {spread.devices:,} devices; the steps are those of {MOST_CHATS} rows"
    more = {"rows": Choice(spread.devices, each)} if spread.devices > MOST_CHATS else {}
    return _dividing(spread) | more


def _why_rows(rows: int, wanted: float, context: int, whole: bool) -> str:
    best = f"0.292 C^0.3271 = {wanted * context:,.0f} tokens a step are best (DeepSeek LLM, equation 1)"
    return best if whole else f"{best}; {rows:,} rows are the power of two whose activations stay below 6 GB"


def _finetuning(rows: int, context: int, rate: float) -> dict[str, Choice]:
    rows = min(rows, MOST_CHATS)
    documents = max(1, rows // 8)
    chats = max(1, rows - documents)
    return {
        "rows": Choice(
            chats, "with those of documents as many as in pretraining, at most 32 (InstructGPT, appendix C.1)"
        ),
        "document_rows": Choice(documents, "one in eight, as at nano: keeps what pretraining taught"),
        "steps": Choice(
            -(-CONVERSATIONS * CONVERSATION_TOKENS // (chats * context)),
            "every conversation about once, as at nano: about 33 tokens each",
        ),
        "learning_rate": Choice(
            float(f"{rate / 4:.2g}"), "a quarter of pretraining's, as GPT-1 (Radford et al. 2018, section 4.1)"
        ),
        "schedule": Choice("linear", "as in pretraining"),
    }


def _gated(name: str) -> TransformerConfig:
    """A scale's shape in the family we train: a plain feed-forward layer becomes a gated one with as many weights."""
    c = SHAPES[name]
    hidden = c.hidden if c.gated else -(-c.hidden * 2 // 3 // 256) * 256
    return TransformerConfig(
        width=c.width, layers=c.layers, heads=c.heads, kv_heads=c.key_heads, hidden=hidden, vocabulary=c.vocabulary,
        max_positions=c.max_positions, tied=True, norm_qk=True,
    )  # fmt: skip


SCALES: Mapping[str, Scale] = {
    "nano": NANO,
    "micro": derived(
        "two weeks on two CPU cores, less than an hour on a GPU", SHAPES["micro"],
        "heads of 64, two to a key/value head; SwiGLU's 8/3 of the width; a vocabulary of a quarter of the weights",
    ),
    "small": derived(
        "half a year on two CPU cores, hours on a GPU: the size of GPT-2", SHAPES["small"],
        "GPT-2's width, depth and heads (Radford et al. 2019, table 2), SwiGLU's 8/3 of the width",
    ),
    "6b": derived(
        "a few accelerators", _gated("6b"),
        "ChatGLM-6B's shape; its plain layer of 16,384 is a gated one of two thirds (Shazeer 2020), rounded up to 256",
        one_computer=False,
    ),
    "130b": derived("a cluster", _gated("130b"), "GLM-130B's shape (Zeng et al. 2022)", one_computer=False),
}  # fmt: skip


def choose(scale: str, do: str, given: Mapping[str, Any] | None = None) -> dict[str, Choice]:
    """The dial's values for one step, by setting name, with the number type this machine is fast in.

    Args:
        given: the settings that the recipe writes; another objective of pretraining has another network.

    Raises:
        AthanorError: the scale is not on the dial.
    """
    if scale not in SCALES:
        raise AthanorError(f"scale={scale!r} is not on the dial", allowed=", ".join(SCALES), fix=nearest(scale, SCALES))
    steps = SCALES[scale].steps
    chosen = dict(steps.get(do, {}))
    objective = (given or {}).get("objective", "next_token")
    if do == "pretrain" and objective != "next_token":
        chosen = _for_objective(chosen, objective)
    if do in ("classify", "seq2seq"):
        chosen = _for_examples(do, float(steps["pretrain"]["learning_rate"].value))
    if do in ("pretrain", "finetune", "classify", "seq2seq"):
        chosen["dtype"] = _dtype()
    return chosen


def _for_objective(chosen: Mapping[str, Choice], objective: str) -> dict[str, Choice]:
    """The numbers of pretraining for a network that is not the next token's."""
    from athanor.training.networks import ONLY_FOR

    own = {name: choice for name, choice in chosen.items() if objective in ONLY_FOR.get(name, (objective,))}
    hidden, rate = int(own["hidden"].value), float(own["learning_rate"].value)
    if objective != "span_corruption":
        own["hidden"] = Choice(hidden * 3 // 2, "two matrices, where a gated layer has three: as many weights")
    if objective in ("masked", "permutation"):
        own["learning_rate"] = Choice(
            float(f"{rate / 3:.2g}"),
            "a third of the next token's: sums normalised afterwards stalled at more, on toys; short runs on real text "
            "told no rates apart",
        )
    if objective == "blank_infilling":
        own["learning_rate"] = Choice(rate, "the next token's: 5.90 nats on held-out real text, at a third of it 6.16")
    return own


def _for_examples(do: str, rate: float) -> dict[str, Choice]:
    """How long and how fast labelled examples, or pairs, are learnt."""
    if do == "classify":
        rate = float(f"{rate / 3:.2g}")
    why = "a third of pretraining's: what it taught stays" if do == "classify" else "as in pretraining"
    return {
        "rows": Choice(32, "GPT-1's batch (Radford et al. 2018, section 4.1)"),
        "steps": Choice(
            500 if do == "classify" else 2_000, "set it to three times your examples over the rows (GPT-1)"
        ),
        "learning_rate": Choice(rate, why),
        "schedule": Choice("linear", "GPT-1's (section 4.1)"),
    }


def _dtype() -> Choice:
    from athanor.base.device import fast_dtype, pick_device

    name = str(fast_dtype(pick_device())).removeprefix("torch.")
    if name == "bfloat16":
        return Choice(name, "this machine multiplies bf16 in hardware; the optimiser keeps fp32 weights")
    return Choice(name, "this machine has no bf16 hardware: fp32 is faster here")
