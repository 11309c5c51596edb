"""New tokens: old ids stay, the fast path stays, and new rows begin where the model already knows what they mean."""

import json
import statistics
from pathlib import Path

import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.models import native_kernels
from athanor.models.config import TransformerConfig
from athanor.models.extend import extend_vocabulary
from athanor.models.language import LanguageModel
from athanor.tokens.extend import as_rows, extend
from athanor.tokens.tokenizer import Tokenizer
from tests.tokens import makers
from tests.tokens.samples import LEARN, NASTY, random_texts
from tests.tokens.test_fast import build

CHEMISTRY = [
    "benzaldehyde and formaldehyde react; benzaldehyde is distilled, formaldehyde not. acetaldehyde 苯甲醛 苯甲醛 too."
] * 8


@pytest.fixture(scope="module", params=["ours", "gpt2", "llama3", "qwen"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    if request.param == "ours":
        return Tokenizer.train(LEARN, 500)
    folder = tmp_path_factory.mktemp(request.param)
    makers.MAKERS[request.param](folder)
    return Tokenizer.load(folder)


def test_learnt_merges_keep_old_ids_and_shorten_new_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    larger, plan = extend(tokenizer, texts=CHEMISTRY, count=20, special=["<|tool_call|>"])
    assert plan.before == tokenizer.vocabulary and plan.after == larger.vocabulary == plan.before + 21
    assert [row.id for row in plan.rows] == list(range(plan.before, plan.after))
    new = set(range(plan.before, plan.after))
    for text in [*LEARN[:6], *NASTY, *random_texts(100)]:
        ids = larger.encode(text)
        if not set(ids) & new:
            assert ids == tokenizer.encode(text), text
        assert larger.decode(ids) == tokenizer.decode(tokenizer.encode(text))
    assert sum(not set(larger.encode(text)) & new for text in LEARN[:6]) >= 3
    for text in CHEMISTRY[:1]:
        assert len(larger.encode(text)) < 0.75 * len(tokenizer.encode(text))
    table, old = larger.token_bytes(), tokenizer.token_bytes()
    for row in plan.rows[:20]:  # a new token is the bytes of the old pieces it begins as
        assert table[row.id] == b"".join(old[piece] for piece in row.pieces)
        assert len(row.pieces) > 1
    assert plan.rows[20].pieces == ()
    assert larger.special["<|tool_call|>"] == plan.rows[20].id
    assert not set(larger.encode("<|tool_call|>")) & {plan.rows[20].id}
    assert [larger.special[name] for name in tokenizer.special] == list(tokenizer.special.values())
    larger.save(tmp_path)
    theirs, again = transformers.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    for text in (*CHEMISTRY[:1], *LEARN[:6], f"<|tool_call|>{LEARN[0]}"):
        expected = theirs(text, add_special_tokens=False)["input_ids"]
        assert again.encode_template(text) == larger.encode_template(text) == expected
    assert json.dumps(as_rows(plan))


def test_the_fast_path_stays_exact(tokenizer: Tokenizer) -> None:
    larger, _ = extend(tokenizer, texts=CHEMISTRY, count=20)
    assert larger.prepare_fast()
    for text, ids in zip(CHEMISTRY[:1] + LEARN[:6], larger.encode_corpus(CHEMISTRY[:1] + LEARN[:6]), strict=True):
        assert ids.tolist() == larger._plain.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", ["t5", "bert", "llama2", "clip"])
def test_words_are_added_to_every_kind(name: str, tmp_path: Path) -> None:
    makers.MAKERS[name](tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    larger, plan = extend(tokenizer, words=["benzaldehyde"], special=["<|x|>"])
    word, special = plan.rows
    assert word.pieces == tuple(tokenizer.encode("benzaldehyde")) and special.pieces == ()
    assert word.id in larger.encode("some benzaldehyde") and larger.encode_template("<|x|>")[-1] == special.id
    for text in LEARN[:6]:
        assert larger.encode(text) == tokenizer.encode(text)
    with pytest.raises(AthanorError, match="byte-level BPE only"):
        extend(tokenizer, texts=CHEMISTRY, count=3)


def test_what_cannot_be_added_is_said(tokenizer: Tokenizer) -> None:
    for words, said in ((["the"] if "the" in tokenizer.core.get_vocab() else ["a"], "already"), ([" "], "visible")):
        with pytest.raises(AthanorError, match=said):
            extend(tokenizer, words=words)
    with pytest.raises(AthanorError, match="already"):
        extend(tokenizer, words=["new one", "new one"])
    with pytest.raises(AthanorError, match="no token was added"):
        extend(tokenizer, texts=["a b c"], count=5)


def test_a_token_that_is_there_is_not_made_in_another_way() -> None:
    """The merges write "abc" as a and bc, though the vocabulary has abc: learning must not give it a second id."""
    tokenizer = Tokenizer(build([(b"b", b"c"), (b"a", b"b"), (b"ab", b"c")]))
    assert len(tokenizer.encode("abc")) == 2
    larger, plan = extend(tokenizer, texts=["abc abc abc abcx abcx"], count=5)
    assert "abc" not in {row.token for row in plan.rows} and larger.vocabulary == plan.after
    assert larger.encode("abc") == tokenizer.encode("abc")


# ------------------------------------------------------------------------------------------------------------ models


def make_model(vocabulary: int, tied: bool, bias: bool = False) -> LanguageModel:
    config = TransformerConfig(
        width=32, layers=2, heads=2, hidden=64, max_positions=128, vocabulary=vocabulary, tied=tied, bias_head=bias
    )
    return LanguageModel(config).initialise(1)


@pytest.mark.parametrize(("tied", "bias"), [(True, False), (False, False), (False, True)])
def test_old_logits_do_not_change(tied: bool, bias: bool) -> None:
    model = make_model(60, tied, bias)
    larger = extend_vocabulary(model, {50: (1, 2, 3), 60: (), 61: (), 62: (4,)}, known=50)
    assert larger.config.vocabulary == larger.trunk.config.vocabulary == 63 and model.config.vocabulary == 60
    ids = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before, after = model(ids), larger(ids)
        assert after.shape[-1] == 63
        assert torch.equal(before[..., :50], after[..., :50])
        assert torch.equal(before[..., 51:60], after[..., 51:60])
    rows = [(model.tokens.weight, larger.tokens.weight)]
    if model.head is not None and larger.head is not None:
        rows.append((model.head.weight, larger.head.weight))
    for old, new in rows:
        assert torch.allclose(new[50], old[1:4].mean(0)) and torch.equal(new[62], old[4])
        assert (new[60] - old[:50].mean(0)).abs().max() < 0.06 * old[:50].std(0).max()
        assert not torch.equal(new[60], new[61])  # two special tokens are not the same
    again = extend_vocabulary(model, {50: (1, 2, 3), 60: (), 61: (), 62: (4,)}, known=50)
    assert all(torch.equal(one, other) for one, other in zip(larger.parameters(), again.parameters(), strict=True))
    if bias:
        assert larger.head is not None and larger.head.bias is not None and len(larger.head.bias) == 63


def test_a_new_special_token_takes_little_from_the_others() -> None:
    """Hewitt's bound: at the mean of all rows its probability is at most about one in the vocabulary."""
    model = make_model(50, tied=False)
    with torch.no_grad():
        assert model.head is not None
        model.head.weight.mul_(40)  # confident, as a trained model is
        larger = extend_vocabulary(model, {50: ()}, known=50)
        chance = larger(torch.arange(50)[None])[0].softmax(-1)[:, 50]
    assert chance.max() < 1.5 / 50


@pytest.mark.parametrize(("pieces", "known"), [({49: ()}, 50), ({50: (50,)}, 50), ({61: ()}, 50), ({}, 99)])
def test_plans_that_do_not_fit_are_refused(pieces: dict[int, tuple[int, ...]], known: int) -> None:
    with pytest.raises(ValueError):
        extend_vocabulary(make_model(60, True), pieces, known)


def loss_of(model: LanguageModel, ids: list[int]) -> float:
    with torch.no_grad():
        row = torch.tensor([ids])
        total, _ = model.loss(row[:, :-1], row[:, 1:])
        return float(total)


def with_random_rows(model: LanguageModel, first: int, seed: int) -> LanguageModel:
    """The same model, its new rows drawn as a fresh model's are."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in [model.tokens.weight] + ([model.head.weight] if model.head is not None else []):
            weight[first:] = torch.randn(weight[first:].shape, generator=generator) * 0.02
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_text_of_new_tokens_costs_less_than_from_random_rows(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that have learnt a text by the old tokens know it better by the new ones than from any random start.

    How much better differs from model to model (by 8 to 23 % of the mean of the random starts, over ten of them), and
    with how kernels round while the models learn: these learn by torch's own. By the library's, one of eighteen random
    starts was better by a hundredth.
    """
    monkeypatch.setattr(native_kernels, "usable", lambda *tensors: False)
    texts = CHEMISTRY[:1] + LEARN[:6]
    tokenizer = Tokenizer.train(LEARN, 300)
    larger, plan = extend(tokenizer, texts=CHEMISTRY, count=15)
    rows = [torch.tensor([tokenizer.encode(text)[:128]]) for text in texts]
    ids = larger.encode(CHEMISTRY[0])
    assert len(set(ids) - set(range(plan.before))) > 3
    shares = []
    for start in range(3):
        model = make_model(tokenizer.vocabulary, tied).initialise(start)
        learn(model, rows, steps=400)
        planned = loss_of(extend_vocabulary(model, plan.pieces(), plan.before), ids)
        drawn = [
            loss_of(with_random_rows(extend_vocabulary(model, plan.pieces(), plan.before), plan.before, seed), ids)
            for seed in range(6)
        ]
        assert planned < min(drawn)
        shares.append(planned / statistics.fmean(drawn))
    assert statistics.fmean(shares) < 0.9


def learn(model: LanguageModel, rows: list[torch.Tensor], steps: int) -> None:
    """Train on one row after the other."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(steps):
        row = rows[step % len(rows)]
        total, count = model.loss(row[:, :-1], row[:, 1:])
        optimiser.zero_grad()
        (total / count).backward()
        optimiser.step()
