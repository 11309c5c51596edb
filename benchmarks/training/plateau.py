"""When does a network that guesses hidden tokens know more than how frequent each is: ours, and transformers' own?

    python benchmarks/training/plateau.py ours theirs --data TEXTS.jsonl.gz --objective masked --steps 800 \\
        --more context=64 rows=64 optimizer=adamw learning_rate=0.002

Both learn from the same batches by the same loop, optimiser, schedule and number type, and have the same shape and as
many weights; theirs is BertForMaskedLM or XLNetLMHeadModel with their own first weights, dropout off. Judged is as in
objectives.py, every --every steps: loss of held-out hidden tokens in nats less that of the unigram; negative is learnt.
Muon takes BERT's matrices on either side; XLNet's keep their heads apart there, which Muon cannot take: compare XLNet
with optimizer=adamw, and dtype=float32, for theirs makes its distances in that.
"""

import argparse
import functools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import objectives
import torch
import transformers
from torch import Tensor, nn

from athanor.base.progress import SilentProgress
from athanor.data.packing.mixture import open_batches
from athanor.recipes.recipe import load_recipe
from athanor.recipes.resolved import until_step
from athanor.recipes.runner import plan_recipe, run_recipe
from athanor.store.artifact import Store
from athanor.tokens.tokenizer import Tokenizer
from athanor.training.corpus import Rows, learning, rows_of, with_marks
from athanor.training.engines.engine import Engine
from athanor.training.loop import take_step
from athanor.training.networks import PretrainSettings, build
from athanor.training.objective import Loss, Objective
from athanor.training.objectives.permutation import PermutedBatch
from athanor.training.run import Run
from athanor.training.setup import DTYPES, prepare

Settings, Scores = PretrainSettings, Callable[[Any, Any], Tensor]  # of a network and a batch: (B, T, V)


def theirs(settings: Settings, vocabulary: int) -> tuple[nn.Module, Scores]:
    """The reference with the shape of ours, and how a batch is given to it."""
    torch.manual_seed(settings.seed)
    if settings.objective == "masked":
        config = transformers.BertConfig(
            vocab_size=vocabulary, hidden_size=settings.width, num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads, intermediate_size=settings.hidden,
            max_position_embeddings=settings.context, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
        )  # fmt: skip
        model = transformers.BertForMaskedLM(config)
        encoder, layers = model.bert.encoder, model.bert.encoder.layer
        del encoder.layer
        encoder.blocks, encoder.layer = layers, layers  # Muon takes what is named blocks
        return model, lambda model, batch: model(batch.ids_BT).logits
    config = transformers.XLNetConfig(
        vocab_size=vocabulary, d_model=settings.width, n_layer=settings.layers, n_head=settings.heads,
        d_inner=settings.hidden, dropout=0,
    )  # fmt: skip
    return transformers.XLNetLMHeadModel(config), xlnet_scores


def xlnet_scores(model: Any, batch: PermutedBatch) -> Tensor:
    """A guess for every place. Given words see each other, guessed ones those before them in the order."""
    order_BT = batch.order_BT
    hidden_BTT = (order_BT[:, None] > 0) & (order_BT[:, None] >= order_BT[:, :, None])
    every_BTT = torch.eye(order_BT.shape[1], dtype=model.dtype).expand(hidden_BTT.shape)
    return model(batch.ids_BT, perm_mask=hidden_BTT.to(model.dtype), target_mapping=every_BTT).logits


def loss_of(scores_of: Scores) -> Callable[[nn.Module, Any], Loss]:
    """Cross-entropy of the hidden tokens."""

    def loss(model: nn.Module, batch: Any) -> Loss:
        scores_XV, targets_X = scores_of(model, batch).flatten(0, 1), batch.targets_BT.flatten()
        total = nn.functional.cross_entropy(scores_XV.float(), targets_X, ignore_index=-100, reduction="sum")
        return Loss(total, (targets_X != -100).sum())

    return loss


def learn(who: str, settings: Settings, tokenizer: Tokenizer, shards: Path, asked: argparse.Namespace) -> None:
    """Train one network, and say every so often what it knows."""
    vocabulary = 1 + max(tokenizer.core.get_vocab().values())
    if who == "ours":
        model, scores_of = build(settings, vocabulary), objectives_scores(settings)
    else:
        model, scores_of = theirs(settings, vocabulary)
        model = model.to(DTYPES[settings.dtype])  # whose tables of places stay whole numbers
    model = prepare(model, settings.dtype if who == "ours" else None, settings)
    torch.set_num_threads(asked.threads)
    rows: Rows = rows_of(settings, tokenizer, model)
    batches = open_batches(shards, settings.context, settings.rows, settings.seed, settings.steps)
    batch, loss = learning(settings, batches, {settings.objective: rows}, torch.device("cpu"))
    loss = loss if who == "ours" else loss_of(scores_of)
    objective = Objective(batch, loss, settings.rows * settings.context)
    run = Run(model, objective, settings, Path(tempfile.mkdtemp()), SilentProgress(), Engine())
    seconds, curve = 0.0, []
    while run.step < settings.steps:
        start = time.process_time()
        take_step(run)
        seconds += time.process_time() - start
        if run.step % asked.every == 0 or run.step == settings.steps:
            of_batch = functools.partial(scores_of, model.eval())
            found = objectives.judge(of_batch, rows, settings, tokenizer, shards, asked.windows)
            model.train()
            curve.append([run.step, round(found.loss - found.unigram, 4), round(found.right, 4)])
            print(
                f"{who}: step {run.step}, {seconds:.0f} CPU s: {found.loss:.3f} nats, unigram {found.unigram:.3f}, "
                f"right {found.right:.3f}, most frequent {found.commonest:.3f}", flush=True,
            )  # fmt: skip
    weights = sum(weight.numel() for weight in model.parameters())
    record = {"who": who, "objective": settings.objective, "more": asked.more, "weights": weights, "curve": curve}
    with open(asked.out, "a") as file:
        file.write(json.dumps({**record, "seconds": round(seconds)}) + "\n")


def objectives_scores(settings: Settings) -> Scores:
    """How a batch is given to ours."""
    return lambda model, batch: objectives.logits(model, settings.objective, batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", nargs="+", choices=("ours", "theirs"))
    parser.add_argument("--data", required=True)
    parser.add_argument("--objective", choices=("masked", "permutation"), default="masked")
    parser.add_argument("--store", type=Path, default=Path(".athanor"))
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--windows", type=int, default=128, help="held-out windows to judge")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("plateau.jsonl"))
    parser.add_argument("--more", nargs="*", default=[], help="further settings of the objective's step, key=value")
    asked = parser.parse_args()
    told = [f"data.path={asked.data}", f"tokenizer.vocabulary={asked.vocabulary}"]
    told += [f"{asked.objective}.{one}" for one in (f"steps={asked.steps}", "checkpoint_seconds=1e9", *asked.more)]
    recipe = until_step(load_recipe("objectives", told), asked.objective)
    plan = plan_recipe(recipe)
    settings = plan[-1].settings
    assert isinstance(settings, PretrainSettings)
    packing = until_step(load_recipe("objectives", told[:2]), "pack")
    made = run_recipe(packing, plan_recipe(packing), Store(asked.store), SilentProgress())
    tokenizer = with_marks(settings, Tokenizer.load(made["tokenizer"].path))
    for who in asked.who:
        learn(who, settings, tokenizer, made["pack"].path, asked)


if __name__ == "__main__":
    main()
