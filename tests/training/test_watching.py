"""Looks at held-out text: the figure is the mean loss over its windows, and the samples are the model's own."""

from pathlib import Path

import numpy as np
import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.data.packing.batches import Batches
from athanor.data.packing.pack import TokenFiles
from athanor.inference.blanks import find_blanks, inputs
from athanor.inference.generate import generate
from athanor.inference.sampling import Sampling
from athanor.models.config import TransformerConfig
from athanor.models.language import LanguageModel
from athanor.tokens.tokenizer import DOCUMENT, Tokenizer
from athanor.training.corpus import with_marks
from athanor.training.networks import PretrainSettings, build
from athanor.training.settings import LoopSettings
from athanor.training.watching import SAMPLE_TOKENS, heldout_loss, looks

CONTEXT = 16


def shards(folder: Path, tokens: int) -> Path:
    """A packed split of random tokens in documents of 50."""
    ids = np.random.default_rng(0).integers(1, 200, tokens).astype(np.uint16)
    np.save(folder / "heldout-00000.npy", ids)
    np.save(folder / "heldout-starts.npy", np.array([*range(0, tokens, 50), tokens], dtype=np.int64))
    return folder


def model() -> LanguageModel:
    config = TransformerConfig(width=16, layers=1, heads=2, hidden=16, max_positions=64, vocabulary=300, tied=True)
    return LanguageModel(config).initialise(0)


def test_the_figure_is_the_mean_over_the_windows(tmp_path: Path) -> None:
    tokens, network = TokenFiles(shards(tmp_path, 320), "heldout"), model()
    with torch.no_grad():
        found = heldout_loss({"": tokens}, CONTEXT)(network)["heldout"]
        batch = Batches(tokens, CONTEXT, 1).in_order(0, 20)
        ids, targets, documents = (torch.from_numpy(x) for x in (batch.ids_BT, batch.targets_BT, batch.documents_BT))
        total, count = network.loss(ids, targets, documents)
    assert found == pytest.approx(float(total / count), rel=1e-6)


def test_networks_that_fill_in_blanks_go_on_with_beginnings_too(tmp_path: Path) -> None:
    """What they write while they learn is what they would answer afterwards, and ends where a blank does."""
    settings = PretrainSettings(
        objective="blank_infilling", steps=1, rows=1, learning_rate=0.1, watch_every=1, prompts=("some w",), layers=1,
        width=64, heads=2, hidden=96, context=CONTEXT,
    )  # fmt: skip
    tokenizer = with_marks(settings, Tokenizer.train(["some words of ours"] * 3, 300))
    network = build(settings, tokenizer.vocabulary).initialise(0).eval()
    blanks = find_blanks(network.config, tokenizer)
    assert network.config.prefix and blanks is not None
    (written,) = looks(settings, tokenizer, shards(tmp_path, 320), CONTEXT)["samples"](network)
    prompt = [tokenizer.special[DOCUMENT], *tokenizer.encode("some w")]
    end = tokenizer.special["<eop>"]
    expected = generate(network, prompt, Sampling(max_tokens=SAMPLE_TOKENS), [end], tokenizer, blanks)
    assert written == "some w" + expected.text and expected.ids
    with torch.no_grad():  # a network that ends every blank at once
        network.tokens.weight.zero_()
        network.tokens.weight[end] = 1.0
        if network.head is not None:
            network.head.weight.zero_()
            network.head.weight[end] = network.hidden(**inputs(network.config, [blanks.complete(prompt)], blanks))[
                0, -1
            ]
    assert looks(settings, tokenizer, tmp_path, CONTEXT)["samples"](network) == ["some w"]


def test_beginnings_are_gone_on_with(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["some words of ours"] * 3, 300)
    settings = LoopSettings(steps=1, rows=1, learning_rate=0.1, watch_every=1, prompts=("some w", "ours"))
    found = looks(settings, tokenizer, shards(tmp_path, 320), CONTEXT)
    written = found["samples"](model())
    assert [text[:4] for text in written] == ["some", "ours"] and all(len(text) > 6 for text in written)
    assert looks(LoopSettings(steps=1, rows=1, learning_rate=0.1), tokenizer, tmp_path, CONTEXT) == {}


def test_nothing_held_out_is_said(tmp_path: Path) -> None:
    settings = LoopSettings(steps=1, rows=1, learning_rate=0.1, watch_every=1)
    with pytest.raises(AthanorError, match="no held-out text"):
        looks(settings, Tokenizer.train(["x"], 280), shards(tmp_path, 1), CONTEXT)


@pytest.mark.parametrize("more", [{"keep_best": True}, {"prompts": ["x"]}])
def test_what_needs_looks_is_refused_without(more: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="needs watch_every"):
        LoopSettings.model_validate({"steps": 1, "rows": 1, "learning_rate": 0.1, **more})
