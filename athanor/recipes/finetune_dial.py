"""The numbers of a fine-tuning that nobody gave, each with its reason: the one dial for a given model and its data.

Rules from "LoRA Without Regret" (Schulman and Thinking Machines Lab 2025) are marked [regret].
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import psutil
import torch

from athanor.base.device import fast_dtype, matmul_flops, pick_device, set_threads
from athanor.base.errors import AthanorError
from athanor.base.machines import PROCESSOR_SHARE
from athanor.base.tables import size
from athanor.models.adapters.places import Place
from athanor.models.config import TransformerConfig
from athanor.models.shapes import TRAINING_BYTES, count_parameters, learning_flops, training_memory
from athanor.recipes.dial import Choice
from athanor.recipes.survey import Survey

Method = Literal["full", "freeze", "lora", "rslora", "dora", "qlora", "ia3", "prefix", "ptuning"]
METHODS: tuple[Method, ...] = ("lora", "qlora", "rslora", "dora", "full", "freeze", "ia3", "prefix", "ptuning")
LOW_RANK = ("lora", "qlora", "rslora", "dora")
SPARE = 0.8  # share of the free memory that a run may plan with
PROGRAM = 1e9  # bytes of Python, torch and its libraries
INT4_BYTES = 0.65  # per weight, scales and INT8 embedding included
RANKS = (8, 16, 32, 64, 128, 256)
LORA_ALPHA = 32.0
MOST_CONTEXT = 4096
MOST_APART = 200


@dataclass(frozen=True)
class Situation:
    """What the choices depend on.

    Attributes:
        quantized: the model's weights are INT4 already.
        places: its linear layers.
    """

    config: TransformerConfig
    survey: Survey
    quantized: bool
    places: Mapping[str, Place]


def choose_all(situation: Situation, given: Mapping[str, Any]) -> dict[str, Choice]:
    """Every value of a fine-tuning by its name; those that were given stay, with that as their reason.

    Raises:
        AthanorError: no method fits into the memory.
    """
    values = {name: value for name, value in given.items() if value is not None}
    chosen: dict[str, Choice] = {}
    for name, choose in CHOICES.items():
        choice = Choice(values[name], "as you said") if name in values else choose(situation, values)
        if choice is not None:
            chosen[name], values[name] = choice, choice.value
    return chosen


def dtype_of(situation: Situation, chosen: Mapping[str, Any]) -> Choice:
    """Number type of the frozen weights and of what flows between the layers."""
    name = str(fast_dtype(pick_device())).removeprefix("torch.")
    return Choice(name, "this machine multiplies bf16 in hardware; what learns is kept in fp32"
                  if name == "bfloat16" else "this machine has no bf16 hardware: fp32 is faster here")  # fmt: skip


def context(situation: Situation, chosen: Mapping[str, Any]) -> Choice:
    """Tokens per row: a power of two that holds the longest conversation, where the model has so many positions."""
    longest = situation.survey.longest()
    most = min(situation.config.max_positions - chosen.get("prefix_tokens", 0), MOST_CONTEXT)
    wanted = min(most, max(64, 2 ** math.ceil(math.log2(longest))))
    why = f"holds the longest conversation, {longest:,} tokens; shorter ones share a row"
    if longest > wanted:
        beside = " beside the prefix" if "prefix_tokens" in chosen else ""
        limit = "tokens keep attention cheap" if wanted == MOST_CONTEXT else f"positions of the model{beside}"
        why = f"{wanted:,} {limit}; the longest conversation has {longest:,}: see long_rows"
    return Choice(wanted, why)


def memory(method: str, situation: Situation, chosen: Mapping[str, Any], rows: int = 1) -> float:
    """Bytes that a method needs at its peak, with so many rows at a time."""
    config, wide = situation.config, 2 if chosen["dtype"] == "bfloat16" else 4
    weights = count_parameters(config)
    length = chosen.get("context") or context(situation, chosen).value
    kept = training_memory(config, rows=rows, context=length, number_bytes=wide).activations
    if method == "full":
        return PROGRAM + weights * TRAINING_BYTES + kept
    base = INT4_BYTES if method == "qlora" or situation.quantized else wide
    return PROGRAM + weights * base * 1.1 + kept


def method(situation: Situation, chosen: Mapping[str, Any]) -> Choice:
    """LoRA where the weights fit, QLoRA where only their INT4 codes do."""
    if situation.quantized:
        return Choice("qlora", "the model is INT4 already: its codes stay, low-rank matrices learn beside them")
    room = free_memory() * SPARE
    needs = {name: memory(name, situation, chosen) for name in ("lora", "qlora", "full")}
    if needs["lora"] <= room:
        return Choice(
            "lora", f"needs about {size(needs['lora'])} of the {size(room)} that are free; learns as much as all "
            f"weights (full: {size(needs['full'])}) from data of this size, and leaves the model as it is [regret]",
        )  # fmt: skip
    if needs["qlora"] <= room:
        return Choice("qlora", f"the weights in INT4 need about {size(needs['qlora'])} of the {size(room)} that are "
                      f"free; in 16 bits {size(needs['lora'])}")  # fmt: skip
    raise AthanorError(
        f"not even the model's INT4 codes fit: about {size(needs['qlora'])} are needed, {size(room)} are free",
        fix="take a smaller model, or a machine with more memory",
    )


def cost(situation: Situation, chosen: Mapping[str, Any], steps: int) -> dict[str, float]:
    """Seconds, peak bytes and FLOPs that the training will take, as far as one can know."""
    method, dtype, context = chosen["method"], chosen["dtype"], chosen["context"]
    below = 1 - chosen["last_layers"] / situation.config.layers if method == "freeze" else 0.0
    frozen = below if method in ("full", "freeze") else 1.0
    scored = situation.survey.answers / situation.survey.tokens
    flops = steps * chosen["rows"] * context * learning_flops(situation.config, context, scored, frozen, below)
    set_threads()
    seconds = flops / (matmul_flops(dtype, pick_device().type) * PROCESSOR_SHARE[dtype])
    return {"seconds": 2 + seconds, "memory": memory(method, situation, chosen, chosen["rows"]), "flops": flops}


def free_memory() -> float:
    """Bytes that a run may take, of the device it would run on."""
    if pick_device().type == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    return float(psutil.virtual_memory().available)


def rank(situation: Situation, chosen: Mapping[str, Any]) -> Choice | None:
    """The smallest rank that can hold what the data says."""
    if chosen["method"] not in LOW_RANK:
        return None
    one = sum(place.inputs + place.height for place in situation.places.values())
    tokens = situation.survey.answers
    fitting = [found for found in RANKS if found * one * 2 >= tokens]
    found = fitting[0] if fitting else RANKS[-1]
    widest = max(8, situation.config.width // 2)
    found = min(found, 2 ** int(math.log2(widest)))
    return Choice(found, f"{found * one:,} numbers hold about 2 bits each, and the answers have {tokens:,} tokens of "
                  "about 1 bit to be learnt [regret]")  # fmt: skip


def alpha(situation: Situation, chosen: Mapping[str, Any]) -> Choice | None:
    """So that the best rate hardly depends on the rank."""
    if chosen["method"] not in LOW_RANK:
        return None
    return Choice(LORA_ALPHA, "with alpha / rank in front, the best learning rate hardly depends on the rank [regret]")


def prefix_tokens(situation: Situation, chosen: Mapping[str, Any]) -> Choice | None:
    """Positions of a prefix."""
    if chosen["method"] not in ("prefix", "ptuning"):
        return None
    found = min(20, max(1, situation.config.max_positions // 8))
    return Choice(found, "simple tasks need fewer than 20, hard ones about 100 (P-tuning v2, Liu et al. 2022, 3.3)")


def targets(situation: Situation, chosen: Mapping[str, Any]) -> Choice | None:
    """Layers that learn beside their frozen weights; None: as many as the method can use."""
    if chosen["method"] in LOW_RANK:
        return Choice(None, "every linear layer: those of attention alone learn less [regret]")
    if chosen["method"] == "ia3":
        return Choice(None, "keys, values and what enters the last matrix (Liu et al. 2022, section 3.3)")
    return None


def last_layers(situation: Situation, chosen: Mapping[str, Any]) -> Choice | None:
    """How many layers learn with `freeze`."""
    if chosen["method"] != "freeze":
        return None
    return Choice(max(1, situation.config.layers // 4), "a quarter of the layers, those nearest to the words")


def learning_rate(situation: Situation, chosen: Mapping[str, Any]) -> Choice:
    """AdamW's best rate by method and width."""
    name = chosen["method"]
    shrink = (2000 / situation.config.width) ** 0.78
    base, why = RATES[name]
    found = min(0.1, base * shrink)
    return Choice(float(f"{found:.2g}"), f"{why}, times (2000 / width)^0.78 = {shrink:.2g} [regret]")


RATES = {
    "full": (5e-5, "a tenth of LoRA's"), "freeze": (1e-4, "between all weights' and LoRA's"),
    **dict.fromkeys(("lora", "qlora", "dora"), (5e-4, "ten times that of all weights")),
    "rslora": (1.5e-4, "below LoRA's: its scale grows with the root of the rank"),
    "ia3": (3e-3, "as the paper (Liu et al. 2022, section 3.4)"),
    "prefix": (5e-4, "as LoRA's: the small network steadies it"),
    "ptuning": (1e-2, "keys and values take large steps: 0.007 to 0.03 at width 1,024 in P-tuning v2's scripts"),
}  # fmt: skip


def rows(situation: Situation, chosen: Mapping[str, Any]) -> Choice:
    """Rows per step."""
    packed = max(1, math.ceil(situation.survey.tokens / chosen["context"]))
    found = 2 ** int(math.log2(max(1, min(32, packed // 25))))
    while found > 1 and found * chosen["context"] > 16_384:
        found //= 2
    return Choice(found, f"{packed:,} rows of conversations: an epoch has {math.ceil(packed / found)} steps; low-rank "
                  "matrices do worse with large batches [regret]")  # fmt: skip


def epochs(situation: Situation, chosen: Mapping[str, Any]) -> Choice:
    """How often every conversation is seen."""
    count = situation.survey.rows
    found = next((times for most, times in ((200, 10), (1_000, 5), (10_000, 3), (50_000, 2)) if count <= most), 1)
    why = "the weights that foretell the held-out conversations best are kept, so that more is no harm"
    return Choice(found, f"{count:,} conversations: the fewer, the more often; {why}")


def apart(situation: Situation, chosen: Mapping[str, Any]) -> Choice:
    """Conversations kept apart."""
    count = situation.survey.rows
    found = max(1, min(MOST_APART, count // 20))
    return Choice(found, "a twentieth, at most 200: enough to see the loss fall, and to stop in time")


CHOICES = {
    "dtype": dtype_of, "method": method, "rank": rank, "alpha": alpha, "targets": targets,
    "prefix_tokens": prefix_tokens, "last_layers": last_layers, "context": context, "learning_rate": learning_rate,
    "rows": rows, "epochs": epochs, "apart": apart,
}  # fmt: skip
