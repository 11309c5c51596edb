"""Every objective of pretraining on real text: is more learnt than the frequency of words, and at which rate?

    taskset -c 0 python benchmarks/training/objectives.py TEXTS.jsonl.gz --objectives masked --rates 0.005,0.015

Each row is the recipe `objectives` up to one objective, at one rate (the dial's, where none is given), and then
held-out windows, of which the objective hides the same tokens every time. Judged are the ordinary tokens among them,
as if the network could say no others, for how well it foretells where a span ends says little about the text: the mean
loss in nats beside that of the unigram (how frequent each token is in what was learnt), and how often the likeliest
token is the right one, beside always saying the most frequent. Of masked tokens those that became [MASK] are judged,
not those left as they were.
"""

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from athanor.base.device import set_threads
from athanor.base.progress import SilentProgress
from athanor.base.tables import text_table
from athanor.data.packing.batches import IGNORED, Batch, Batches
from athanor.data.packing.pack import TokenFiles
from athanor.models.convert import load_network
from athanor.recipes.recipe import load_recipe
from athanor.recipes.resolved import until_step
from athanor.recipes.runner import plan_recipe, run_recipe
from athanor.store.artifact import Store
from athanor.tokens.tokenizer import Tokenizer
from athanor.training.corpus import LOOKING, Rows, rows_of
from athanor.training.networks import ObjectiveName, PretrainSettings
from athanor.training.objectives.draws import row_numbers

HIDING: tuple[ObjectiveName, ...] = ("masked", "permutation", "span_corruption", "blank_infilling")
AT_ONCE = 8


class Judged(NamedTuple):
    """Held-out tokens that were guessed: mean loss in nats and share right, of the network and of the unigram."""

    tokens: int
    loss: float
    unigram: float
    right: float
    commonest: float


def logits(model: Any, objective: str, batch: Any) -> Tensor:
    """Scores (B, T, V) of a batch as the objective draws it."""
    if objective == "permutation":
        return model(batch.ids_BT, order_BT=batch.order_BT, documents_BT=batch.documents_BT)
    if objective == "span_corruption":
        return model(batch.source_BS, batch.ids_BT, seen_BS=batch.seen_BS)
    if objective == "blank_infilling":
        return model(batch.ids_BT, positions_BT=batch.positions_BT, allowed_BTS=batch.allowed_BTS)
    return model(batch.ids_BT, documents_BT=batch.documents_BT)


def unigram(shards: Path, vocabulary: int) -> Tensor:
    """log p of each id in the tokens that are learnt from, one added to every count."""
    tokens = TokenFiles(shards)
    counts_V = np.bincount(tokens.read(0, tokens.tokens), minlength=vocabulary) + 1
    return torch.from_numpy(np.log(counts_V / counts_V.sum()))


@torch.no_grad()
def judge(
    scores_of: Callable[[Any], Tensor], rows: Rows, settings: PretrainSettings, tokenizer: Tokenizer, shards: Path,
    windows: int,
) -> Judged:  # fmt: skip
    """A network on held-out windows, spread evenly.

    Args:
        scores_of: a batch of the objective to the network's scores, (B, T, V).
    """
    special = torch.tensor(sorted(tokenizer.special.values()))
    log_p_V = unigram(shards, 1 + max(tokenizer.core.get_vocab().values()))
    held = Batches(TokenFiles(shards, "heldout"), settings.context, rows=1)
    chosen = np.unique(np.linspace(0, held.windows - 1, windows).astype(int)).tolist()
    losses, targets, right = [], [], []
    for first in range(0, len(chosen), AT_ONCE):
        parts = zip(*(held.window(number) for number in chosen[first : first + AT_ONCE]), strict=True)
        found = Batch(*(np.stack(part) for part in parts))
        batch = rows.draw(found, row_numbers(LOOKING, 0, first, len(found.ids_BT)), torch.device("cpu"))
        judged_BT = (batch.targets_BT != IGNORED) & ~torch.isin(batch.targets_BT, special)
        if settings.objective == "masked":
            judged_BT &= torch.isin(batch.ids_BT, special)
        scores_XV = scores_of(batch)[judged_BT].float().index_fill(-1, special, float("-inf"))
        targets_X = batch.targets_BT[judged_BT]
        losses.append(torch.nn.functional.cross_entropy(scores_XV, targets_X, reduction="none"))
        right.append(scores_XV.argmax(-1) == targets_X)
        targets.append(targets_X)
    targets_X = torch.cat(targets)
    return Judged(
        len(targets_X), float(torch.cat(losses).mean()), float(-log_p_V[targets_X].mean()),
        float(torch.cat(right).float().mean()), float((targets_X == log_p_V.argmax()).float().mean()),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--store", type=Path, default=Path(".athanor"))
    parser.add_argument("--objectives", default=",".join(HIDING))
    parser.add_argument("--rates", default="", help="peak learning rates; unset: the dial's")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--windows", type=int, default=128, help="held-out windows to judge")
    parser.add_argument("--more", nargs="*", default=[], help="further settings of the objective's step, key=value")
    asked = parser.parse_args()
    set_threads()
    rows = []
    for name in asked.objectives.split(","):
        for rate in asked.rates.split(",") if asked.rates else [None]:
            told = [f"data.path={asked.data}", f"{name}.steps={asked.steps}", *(f"{name}.{one}" for one in asked.more)]
            told += [f"{name}.learning_rate={rate}"] if rate else []
            recipe = until_step(load_recipe("objectives", told), name)
            plan, before = plan_recipe(recipe), time.process_time()
            made = run_recipe(recipe, plan, Store(asked.store), SilentProgress())
            seconds, settings = time.process_time() - before, plan[-1].settings
            assert isinstance(settings, PretrainSettings)
            model, tokenizer = load_network(made[name].path).eval(), Tokenizer.load(made[name].path)
            scores_of = functools.partial(logits, model, name)
            of_windows = rows_of(settings, tokenizer, model)
            found = judge(scores_of, of_windows, settings, tokenizer, made["pack"].path, asked.windows)
            rows.append([
                name, f"{settings.learning_rate:g}", f"{made[name].measurements['parameters']:,}", f"{found.loss:.3f}",
                f"{found.unigram:.3f}", f"{found.right:.3f}", f"{found.commonest:.3f}", f"{found.tokens:,}",
                f"{seconds:.0f}",
            ])  # fmt: skip
            print("  ".join(rows[-1]), flush=True)
    head = ["objective", "rate", "weights", "loss", "unigram", "right", "most frequent", "tokens", "CPU s"]
    print(text_table(head, rows))


if __name__ == "__main__":
    main()
