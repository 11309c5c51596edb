"""Pairs: how they are laid out, the losses beside `transformers`, several tasks at once, and a planted task learnt."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.base.progress import SilentProgress
from athanor.base.records import read_records
from athanor.models.config import TransformerConfig
from athanor.models.convert import load_network, save_checkpoint
from athanor.models.seq2seq import EncoderDecoder, EncoderDecoderConfig
from athanor.recipes.recipe import load_recipe
from athanor.recipes.runner import plan_recipe, run_recipe
from athanor.store.artifact import Artifact, Store
from athanor.training.objective import Loss
from athanor.training.objectives.mixed import Task, mixed_batch, mixed_loss
from athanor.training.objectives.sequence_to_sequence import (
    PairBatch,
    PairSigns,
    pair_batch,
    pair_of,
    sequence_loss,
    written,
)  # fmt: skip
from tests.training.stopping import files_of, stopped_again_and_again

CPU = torch.device("cpu")
SIGNS = PairSigns(start=2, end=2, pad=1, source=50, target=51)


def m2m(seed: int = 0) -> EncoderDecoder:
    encoder = TransformerConfig(
        width=32, layers=2, heads=2, hidden=48, max_positions=40, causal=False, position="none", norm="layer",
        norm_eps=1e-5, mlp="relu", bias_qkv=True, bias_out=True, bias_mlp=True,
    )  # fmt: skip
    config = EncoderDecoderConfig(encoder=encoder, vocabulary=60, padding=1, scale_embedding=True, scale_head=False)
    model = EncoderDecoder(config).initialise(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name == "tokens.weight":
                weight.mul_(8)  # scores far from zero; the row of padding is zero, and stays
            else:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return model


def pairs(seed: int = 0, count: int = 5) -> PairBatch:
    random_ids = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        source, target = (random_ids.integers(5, 50, random_ids.integers(2, 9)).tolist() for _ in range(2))
        made.append(pair_of(source, target, SIGNS))
    return pair_batch(made, SIGNS, CPU)


def mean(loss: Loss) -> float:
    return float(loss.total.detach() / loss.count)


def test_pairs_are_laid_out_as_m2m_100_and_t5_have_them() -> None:
    """Fan et al. 2020, section 2.1: the language before source and target. T5: padding begins, the end ends."""
    source, target = pair_of([7, 8], [9], SIGNS)
    assert source.tolist() == [50, 7, 8, 2] and target.tolist() == [51, 9, 2]
    plain = PairSigns(start=0, end=1, pad=0)
    batch = pair_batch([pair_of([7, 8], [9], plain), pair_of([7], [9, 6], plain)], plain, CPU)
    assert batch.source_BS.tolist() == [[7, 8, 1], [7, 1, 0]] and batch.seen_BS.tolist() == [
        [True] * 3,
        [True, True, False],
    ]
    assert batch.ids_BT.tolist() == [[0, 9, 1], [0, 9, 6]] and batch.targets_BT.tolist() == [[9, 1, -100], [9, 6, 1]]


def test_the_loss_is_m2m_100s_smoothed_as_transformers_smooths(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.trainer_pt_utils import LabelSmoother

    model, batch = m2m(), pairs()
    save_checkpoint(model, tmp_path, generation={"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2})
    theirs = transformers.M2M100ForConditionalGeneration.from_pretrained(tmp_path).eval()
    found = theirs(batch.source_BS, attention_mask=batch.seen_BS.long(), labels=batch.targets_BT)
    assert mean(sequence_loss()(model, batch)) == pytest.approx(float(found.loss.detach()), rel=1e-5)
    smoothed = LabelSmoother(0.1)({"logits": found.logits}, batch.targets_BT)
    loss = sequence_loss(0.1)(model, batch)
    assert abs(float(smoothed.detach()) - float(found.loss.detach())) > 0.002
    assert mean(loss) == pytest.approx(float(smoothed.detach()), rel=1e-5)
    assert float(loss.parts["plain"][0] / loss.parts["plain"][1]) == pytest.approx(float(found.loss.detach()), rel=1e-5)


def test_smoothing_has_the_gradient_of_its_formula() -> None:
    found = []
    for plain in (False, True):
        model, batch = m2m(), pairs()
        if plain:
            logits = model(batch.source_BS, batch.ids_BT, seen_BS=batch.seen_BS)
            total = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), batch.targets_BT.flatten(), label_smoothing=0.2, reduction="sum"
            )
        else:
            total = sequence_loss(0.2)(model, batch).total
        total.backward()
        found.append([weight.grad for weight in model.parameters() if weight.grad is not None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_what_is_written_is_what_transformers_writes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model, batch = m2m(3), pairs(3)
    save_checkpoint(model, tmp_path, generation={"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2})
    theirs = transformers.M2M100ForConditionalGeneration.from_pretrained(tmp_path).eval()
    expected = theirs.generate(
        batch.source_BS, attention_mask=batch.seen_BS.long(), forced_bos_token_id=51, max_new_tokens=13, num_beams=1,
        do_sample=False,
    )  # fmt: skip
    ours = written(model, batch, SIGNS, longest=12)
    for row, ids in zip(expected.tolist(), ours, strict=True):
        said = row[2:]
        assert ids == (said[: said.index(2)] if 2 in said else said)


# ------------------------------------------------------------------------------------------------------- several tasks


def planted_tasks(directions: dict[str, list[float]]) -> tuple[torch.nn.Module, dict[str, Task]]:
    """One weight vector and losses whose gradients are given."""
    model = torch.nn.Linear(3, 1, bias=False)

    def loss_of(direction: list[float]) -> object:
        def loss(model: torch.nn.Module, batch: int) -> Loss:
            return Loss(batch * (model.weight[0] * torch.tensor(direction)).sum(), torch.tensor(batch))

        return loss

    return model, {
        name: Task(lambda step, rank, world, size=number + 1: size, loss_of(direction))
        for number, (name, direction) in enumerate(directions.items())
    }


def test_the_agreement_of_tasks_is_the_cosine_of_their_gradients() -> None:
    model, tasks = planted_tasks({"a": [1.0, 0, 0], "b": [-1.0, 0, 1.0], "c": [0, 2.0, 0]})
    batch = mixed_batch(tasks, 5)
    parts = mixed_loss(tasks)(model, batch(10, 0, 1)).parts
    assert float(parts["agreement a b"][0]) == pytest.approx(-(0.5**0.5)) and int(parts["agreement a b"][1]) == 1
    assert float(parts["agreement a c"][0]) == pytest.approx(0.0, abs=1e-6)
    assert float(mixed_loss(tasks)(model, batch(11, 0, 1)).parts["agreement a b"][1]) == 0
    assert not mixed_batch(tasks, None)(0, 0, 1).compared


def test_tasks_count_by_their_weights_whatever_their_size() -> None:
    """Batches of 1 and 2: the mean of the means, three quarters of it the second."""
    model, tasks = planted_tasks({"a": [1.0, 0, 0], "b": [0, 1.0, 0]})
    tasks = {"a": tasks["a"], "b": tasks["b"]._replace(weight=3.0)}
    loss = mixed_loss(tasks)(model, mixed_batch(tasks, None)(0, 0, 1))
    assert int(loss.count) == 3
    (loss.total / loss.count).backward()
    torch.testing.assert_close(model.weight.grad, torch.tensor([[0.25, 0.75, 0.0]]))


# ------------------------------------------------------------------------------------------------------ a planted task

RECIPE = """
seed: 1
steps:
  data: {{do: read, path: "python:", max_bytes: 100000}}
  clean: {{from: {{documents: data}}}}
  tokenizer: {{from: {{corpus: clean}}, vocabulary: 300}}
  turn:
    {{do: examples, path: {folder}/turn.jsonl, form: pair, target: target, source_language: en, target_language: xx}}
  back:
    {{do: examples, path: {folder}/back.jsonl, form: pair, target: target, source_language: en, target_language: yy}}
  learn:
    {{do: seq2seq, from: {{tokenizer: tokenizer, examples: {examples}}}, layers: 2, width: 64, heads: 2, hidden: 128,
     rows: 16, steps: {steps}, learning_rate: {rate}, optimizer: {optimizer}, warmup: 5, context: {context},
     watch_every: {steps} {more}}}
"""


def run(
    folder: Path,
    examples: str,
    steps: int,
    more: str = "",
    context: int = 8,
    rate: float = 0.02,
    optimizer: str = "muon",
    progress: SilentProgress | None = None,
) -> dict[str, Artifact]:
    """Letters to be written from `back`: backwards; from `turn`: the next letter of each."""
    draw = random.Random(1)
    texts = [" ".join(draw.choices("abcdefgh", k=2)) for _ in range(600)]
    turned = str.maketrans("abcdefgh", "bcdefgha")
    for name, change in (("turn", lambda text: text.translate(turned)), ("back", lambda text: text[::-1])):
        rows = [{"text": text, "target": change(text)} for text in texts]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "pairs.yaml").write_text(
        RECIPE.format(
            folder=folder, examples=examples, steps=steps, more=more, context=context, rate=rate, optimizer=optimizer
        )
    )
    recipe = load_recipe(str(folder / "pairs.yaml"))
    return run_recipe(recipe, plan_recipe(recipe), Store(folder / "store"), progress or SilentProgress())


@pytest.mark.slow
def test_two_planted_tasks_are_learnt_in_one_batch_told_apart_by_their_languages(tmp_path: Path) -> None:
    made = run(tmp_path, "{turn: turn, back: back}", 200, ", compare_every: 80, label_smoothing: 0.05")["learn"]
    rows = [json.loads(line) for line in made.file("metrics.jsonl").read_text().splitlines()]
    assert set(rows[0]["parts"]) == {"turn", "back", "turn plain", "back plain", "agreement turn back"}
    assert [row["step"] for row in rows if "agreement turn back" in row["parts"]] == [0, 80, 160]
    assert all(-1 <= row["parts"].get("agreement turn back", 0) <= 1 for row in rows)
    assert made.measurements["heldout"] < 0.4 * np.log(8), "whoever reads nothing loses log 8 nats for each letter"
    assert min(made.measurements[f"exact_{name}"] for name in ("turn", "back")) > 0.8
    assert set(rows[-1]["watched"]) == {"heldout", "heldout/turn", "heldout/back"}
    told = list(read_records(made.file("written.jsonl.zst")))
    assert {row["task"] for row in told} == {"turn", "back"} and isinstance(load_network(made.path), EncoderDecoder)


def test_pairs_stopped_again_and_again_are_learnt_the_same_to_the_bit(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir(), (tmp_path / "broken").mkdir()
    more = ", compare_every: 3, checkpoint_seconds: 0"
    whole = run(tmp_path / "whole", "{turn: turn, back: back}", 7, more)["learn"]
    made, stops = stopped_again_and_again(
        lambda progress: run(tmp_path / "broken", "{turn: turn, back: back}", 7, more, progress=progress),
        "learning pairs", 3,
    )  # fmt: skip
    assert stops >= 2 and files_of(made["learn"]) == files_of(whole)


def test_parents_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AthanorError, match="compare_every with one task"):
        run(tmp_path, "{turn: turn}", 2, ", compare_every: 1")
    with pytest.raises(AthanorError, match="weights of 'turned'"):
        run(tmp_path, "{turn: turn}", 2, ", weights: {turned: 1}")
    with pytest.raises(AthanorError, match=r"weights\.turn=0"):
        run(tmp_path, "{turn: turn}", 2, ", weights: {turn: 0}")
    with pytest.raises(AthanorError, match=r"\d+ tokens long"):
        run(tmp_path, "{back: back}", 2, context=1)
