"""The recipe of the five objectives, run whole at the smallest scale: `transformers` opens what it leaves behind."""

import json

import numpy as np
import pytest
import torch

from athanor.base.progress import SilentProgress
from athanor.data.packing.pack import TokenFiles
from athanor.models.convert import load_network
from athanor.recipes.recipe import load_recipe
from athanor.recipes.resolved import until_step
from athanor.recipes.runner import plan_recipe, run_recipe
from athanor.store.artifact import Artifact, Store
from tests.conftest import REAL_DATA
from tests.training.pretraining import OBJECTIVES

SHAPE = {
    "layers": 1, "width": 32, "heads": 2, "hidden": 48, "context": 64, "rows": 4, "steps": 6, "dtype": "float32",
    "watch_every": 6,
}  # fmt: skip
THEIRS = {
    "next_token": "Qwen3ForCausalLM", "masked": "BertForMaskedLM", "permutation": "XLNetLMHeadModel",
    "span_corruption": "T5ForConditionalGeneration",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    overrides = [f"{name}.{key}={value}" for name in OBJECTIVES for key, value in SHAPE.items()]
    recipe = load_recipe("objectives", ["data.max_bytes=300000", "tokenizer.vocabulary=500", *overrides])
    return run_recipe(recipe, plan_recipe(recipe), Store(tmp_path_factory.mktemp("store")), SilentProgress())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_leaves_a_checkpoint_and_its_curve(name: str, run: dict[str, Artifact]) -> None:
    rows = [json.loads(line) for line in run[name].file("metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and rows[-1]["loss"] < rows[0]["loss"]
    assert 0 < rows[-1]["watched"]["heldout"] < 7
    network = load_network(run[name].path)
    assert sum(weight.numel() for weight in network.parameters()) == run[name].measurements["parameters"]
    assert run[name].measurements["train_flops"] > 0


@pytest.mark.parametrize("name", THEIRS)
def test_transformers_opens_it_with_the_same_scores(name: str, run: dict[str, Artifact]) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = getattr(transformers, THEIRS[name]).from_pretrained(run[name].path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run[name].path)
    ours = load_network(run[name].path)
    ids = torch.tensor([tokenizer.encode("def find(self): return None", add_special_tokens=False)])
    with torch.no_grad():
        if name == "span_corruption":
            found, expected = ours(ids, ids), theirs(ids, decoder_input_ids=ids).logits
            assert tokenizer.convert_tokens_to_ids("<extra_id_0>") != tokenizer.unk_token_id
            assert theirs.config.decoder_start_token_id == tokenizer.pad_token_id
        else:
            found, expected = ours(ids), theirs(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    if name == "masked":
        assert tokenizer.mask_token == "[MASK]" and tokenizer.mask_token_id < theirs.config.vocab_size


@pytest.mark.slow
@pytest.mark.skipif(not (REAL_DATA / "text").is_dir(), reason="the real data sets are not on this machine")
@pytest.mark.parametrize(("name", "steps"), [("permutation", 500), ("masked", 2500)])
def test_hidden_tokens_of_books_are_learnt_beyond_their_frequency(
    name: str, steps: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """BERT's loss stands at the entropy of the frequencies for a thousand steps before it falls.

    Of BERT's guessed tokens one in ten stands there as it was: frequencies alone would make 0.9 times the entropy.
    """
    shape = {"layers": 2, "width": 64, "heads": 2, "hidden": 256, "context": 32, "rows": 64, "steps": steps}
    told = [f"data.path={REAL_DATA}/text/en_gutenberg.jsonl.gz", "tokenizer.vocabulary=512"]
    recipe = until_step(load_recipe("objectives", [*told, *(f"{name}.{key}={shape[key]}" for key in shape)]), name)
    store = Store(tmp_path_factory.getbasetemp() / "books")  # both read the same shards
    run = run_recipe(recipe, plan_recipe(recipe), store, SilentProgress())
    shards = TokenFiles(run["pack"].path)
    counts = np.bincount(shards.read(0, shards.tokens))
    share = counts[counts > 0] / shards.tokens
    entropy = float(-(share * np.log(share)).sum())
    assert run[name].measurements["loss"] < entropy - 0.8
