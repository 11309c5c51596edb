"""What every objective of pretraining hides, and its loss: against `transformers`, its collators, and the papers."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from athanor.base.errors import AthanorError, Stopped
from athanor.base.progress import SilentProgress
from athanor.base.settings import parse_settings
from athanor.data.packing.batches import Batch
from athanor.models.convert import load_network, save_checkpoint
from athanor.tokens.tokenizer import Tokenizer
from athanor.tokens.wholeword import WordEdges
from athanor.training.loop import train
from athanor.training.networks import PretrainSettings, build
from athanor.training.objective import Loss
from athanor.training.objectives import blank_infilling, masked, permutation, span_corruption
from athanor.training.objectives.draws import padding, row_numbers
from tests.training.pretraining import CONTEXT, CPU, HIDING, OBJECTIVES, ROWS, made, ready, settings_of
from tests.training.test_loop import StopAfter, same

transformers = pytest.importorskip("transformers")


def equal(one: object, other: object) -> bool:
    pairs = zip(one, other, strict=True)
    return all(a is b if a is None else torch.equal(a, b) for a, b in pairs)


def plain(rows: int, length: int, seed: int = 0, vocabulary: int = 300) -> Batch:
    """Rows of one document each, of ids from 10."""
    ids = np.random.default_rng(seed).integers(10, vocabulary, (rows, length))
    targets = np.full_like(ids, -100)
    targets[:, :-1] = ids[:, 1:]
    return Batch(ids, targets, np.zeros_like(ids))


# ------------------------------------------------------------------------------------- every objective


@pytest.mark.parametrize("name", OBJECTIVES)
def test_shares_in_order_are_the_whole_batch_and_steps_differ(name: str) -> None:
    _, objective = ready(settings_of(name))
    whole, halves = objective.batch(3, 0, 1), [objective.batch(3, rank, 2) for rank in range(2)]
    assert equal(whole, objective.batch(3, 0, 1))
    assert not torch.equal(whole.ids_BT[:, :9], objective.batch(4, 0, 1).ids_BT[:, :9])
    targets = [[row[row >= 0].tolist() for row in batch.targets_BT] for batch in (whole, *halves)]
    assert targets[0] == targets[1] + targets[2]


@pytest.mark.parametrize("name", HIDING)
def test_the_same_text_loses_other_tokens_in_every_row_and_step(name: str) -> None:
    _, rows, _, _ = made(settings_of(name))
    windows = plain(1, CONTEXT, vocabulary=250)
    same_text = Batch(*(np.repeat(part, 4, 0) for part in (windows.ids_BT, windows.targets_BT, windows.documents_BT)))
    found = [rows.draw(same_text, row_numbers(1, step, 0, 4), CPU).targets_BT for step in (0, 1)]
    drawn = {tuple(row[row >= 0].tolist()) for batch in found for row in batch}
    assert len(drawn) == 8


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_stopped_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    settings = settings_of(name, steps=5, rows=4, checkpoint_seconds=0)
    whole, objective = ready(settings)
    rows = train(whole, objective, settings, tmp_path / "whole", SilentProgress(), "x")
    for _ in range(3):
        broken, objective = ready(settings)
        try:
            again = train(broken, objective, settings, tmp_path / "broken", StopAt(2 * objective.tokens), "x")
            break
        except Stopped:
            continue
    assert again == rows and same(whole, broken)


class StopAt(StopAfter):
    """Asks to stop after so many tokens."""

    def __init__(self, tokens: int):
        super().__init__(0)
        self.tokens = tokens

    def start(self, label: str, total: float | None = None, unit: str = "", done: float = 0.0) -> None:
        super().start(label, total, unit, done)
        self.last = done + self.tokens


@pytest.mark.parametrize("name", HIDING)
def test_special_tokens_and_padding_are_never_guessed(name: str) -> None:
    settings = settings_of(name)
    _, rows, batches, tokenizer = made(settings)
    last = batches.in_order(batches.windows - 1, batches.windows)
    count = int((~padding(last)).sum())
    assert 0 < count < CONTEXT and batches.tokens.tokens == (batches.windows - 1) * CONTEXT + count
    letters = set(tokenizer.encode("abcdefghijkl"))
    for step in range(30):
        batch = rows.draw(last, row_numbers(1, step, 0, 1), CPU)
        found = Counter(batch.targets_BT[batch.targets_BT >= 0].tolist())
        assert sum(found[letter] for letter in letters) <= count
        if name in ("masked", "permutation"):
            assert set(found) <= letters
            assert not bool((batch.targets_BT[0, count:] >= 0).any())


@pytest.mark.parametrize("name", HIDING)
def test_the_checkpoint_comes_back(name: str, tmp_path: Path) -> None:
    model, rows, _, _ = made(settings_of(name))
    save_checkpoint(model, tmp_path, generation=rows.generation)
    again = load_network(tmp_path)
    assert type(again) is type(model)
    assert same(model, again)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"objective": "masked", "kv_heads": 1}, "kv_heads=1 has no meaning with objective: masked"),
        ({"objective": "next_token", "whole_words": True}, "choose masked"),
        ({"objective": "permutation", "share": 0.2}, "share"),
        ({"objective": "masked", "prompts": ["a"], "watch_every": 1}, "prompts"),
        ({"objective": "masked_token"}, "masked"),
        ({"objective": "permutation", "recompute": True}, "recompute=True has no meaning with objective: permutation"),
        ({"accumulate": 9}, "rows=8 for 9 pieces"),
        ({"accumulate": 2, "processes": 3, "engine": "ddp", "rows": 5}, "set rows to 6 at least"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values: dict[str, object], told: str) -> None:
    plain_settings = settings_of("next_token").model_dump(exclude={"objective"})
    with pytest.raises(AthanorError, match=told):
        parse_settings(PretrainSettings, plain_settings | values, "pretrain")


def test_a_table_of_positions_too_short_for_blanks_is_refused() -> None:
    with pytest.raises(AthanorError, match="rows of up to 64 tokens"):
        build(settings_of("blank_infilling", max_positions=CONTEXT), 300)


# ---------------------------------------------------------------------------------------- masked token


def hidden(rows: int = 200, length: int = 100, **more: object) -> tuple[Batch, masked.MaskedBatch]:
    batch = plain(rows, length)
    told = {"mask": 5, "ordinary": np.arange(10, 300), "special": [5], **more}
    return batch, masked.hide(batch, row_numbers(0, 0, 0, rows), CPU, **told)


def test_fifteen_in_a_hundred_are_hidden_as_berts_collator_hides_them(tmp_path: Path) -> None:
    """80 % [MASK], 10 % random, 10 % unchanged, to three standard deviations of both; theirs draws 15 % by chance."""
    batch, ours = hidden()
    ids = torch.from_numpy(batch.ids_BT)
    chosen = ours.targets_BT != -100
    assert chosen.sum(1).tolist() == [15] * 200
    assert torch.equal(ours.ids_BT[~chosen], ids[~chosen]) and torch.equal(ours.targets_BT[chosen], ids[chosen])
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "x", "[MASK]", *(f"w{n}" for n in range(294))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer(vocab=str(tmp_path / "vocab.txt"))
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, seed=1)
    theirs = collator([{"input_ids": row.tolist()} for row in batch.ids_BT])
    figures = []
    for found_ids, targets in ((ours.ids_BT, ours.targets_BT), (theirs["input_ids"], theirs["labels"])):
        picked = targets != -100
        count = int(picked.sum())
        same_id = found_ids[picked] == targets[picked]
        figures.append((count, *(float(part.float().mean()) for part in (found_ids[picked] == 5, same_id))))
    for (count, replaced, kept), (their_count, their_replaced, their_kept) in [figures]:
        assert abs(count - their_count) < 3 * math.sqrt(0.15 * 0.85 * 20_000)
        assert abs(replaced - 0.8) < 3 * math.sqrt(0.8 * 0.2 / count) and abs(replaced - their_replaced) < 0.04
        assert abs(kept - 0.1) < 3 * math.sqrt(0.1 * 0.9 / count) and abs(kept - their_kept) < 0.03
    random = ours.ids_BT[chosen & (ours.ids_BT != 5) & (ours.ids_BT != ids)]
    assert len(random.unique()) > 150 and int(random.min()) >= 10


def test_whole_words_are_those_of_berts_tokenizer(tmp_path: Path) -> None:
    """In WordPiece `##` says that a word goes on; our table knows only what the tokens spell."""
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "play",
        "##ing",
        "##er",
        "the",
        "##s",
        ",",
        "game",
        "游",
        "戏",
        "é",
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(vocab=str(tmp_path / "vocab.txt"), strip_accents=False).save_pretrained(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    ids = np.array(tokenizer.encode("the players,playing é 游戏 games the"))
    pieces = [tokenizer.core.id_to_token(int(one)) for one in ids]
    begins = WordEdges(tokenizer).begins(ids, np.zeros_like(ids))
    assert pieces == ["the", "play", "##er", "##s", ",", "play", "##ing", "é", "游", "戏", "game", "##s", "the"]
    assert begins.tolist() == [not piece.startswith("##") for piece in pieces]


def test_whole_words_of_a_byte_level_tokenizer() -> None:
    """Pieces of a word and of a character go together, whatever the merges; a new document begins a word."""
    tokenizer = Tokenizer.train(["zz"], 262)  # a token for each byte
    text = "ab1 cé 中文,d"
    ids = np.array(tokenizer.encode(text))
    begins = WordEdges(tokenizer).begins(ids, np.repeat([0, 1], [1, len(ids) - 1]))
    places = np.cumsum([0, *(len(letter.encode()) for letter in text)])
    starts = {0, 1, 3, 4, 6, 7, 8, 9, 10}  # a; b, for it is of the next document; space, c, space, 中, 文, comma, d
    assert np.flatnonzero(begins).tolist() == sorted(int(places[number]) for number in starts)


def test_words_are_hidden_whole() -> None:
    length = 120
    batch = plain(40, length)
    begins = np.random.default_rng(3).random((40, length)) < 0.5

    class Known:
        def __init__(self) -> None:
            self.row = -1

        def begins(self, ids_T: np.ndarray, documents_T: np.ndarray) -> np.ndarray:
            self.row += 1
            return begins[self.row]

    _, found = (
        batch,
        masked.hide(
            batch, row_numbers(0, 0, 0, 40), CPU, mask=5, ordinary=np.arange(10, 300), special=[5], words=Known()
        ),
    )
    counts = []
    for row in range(40):
        chosen = (found.targets_BT[row] != -100).numpy()
        words = np.split(chosen, np.flatnonzero(begins[row][1:]) + 1)
        assert all(word.all() or not word.any() for word in words)
        counts.append(chosen.sum())
    assert max(counts) <= 18 and np.mean(counts) > 17


# ----------------------------------------------------------------------------------------- permutation


def test_one_word_in_six_is_guessed_in_runs_as_xlnets_collator_draws_them(tmp_path: Path) -> None:
    rows, length = 300, 120
    batch = plain(rows, length, vocabulary=100)
    ours = permutation.permute(batch, row_numbers(0, 0, 0, rows), CPU, special=[5])
    chosen = (ours.targets_BT != -100).numpy()
    assert torch.equal(ours.targets_BT[ours.order_BT > 0], ours.ids_BT[ours.order_BT > 0])
    for row in range(rows):
        order = ours.order_BT[row][ours.order_BT[row] > 0].tolist()
        assert sorted(order) == list(range(1, len(order) + 1))
    theirs = np.stack([their_runs(length, np.random.default_rng(row)) for row in range(rows)])
    assert abs(chosen.mean() - theirs.mean()) < 0.01 and abs(chosen.mean() - 1 / 6) < 0.02
    ours_runs, their_run_counts = runs_of(chosen), runs_of(theirs)
    for size in range(1, 6):
        assert abs(ours_runs[size] / ours_runs.total() - their_run_counts[size] / their_run_counts.total()) < 0.04


def their_runs(length: int, random: np.random.Generator) -> np.ndarray:
    """The masks of `DataCollatorForPermutationLanguageModeling`, on its own drawing of numbers."""

    class Plain:
        mask_token, mask_token_id, pad_token, pad_token_id = "m", 5, "p", 0

        def get_special_tokens_mask(self, ids: list[int], already_has_special_tokens: bool) -> list[int]:
            return [0] * len(ids)

    collator = transformers.DataCollatorForPermutationLanguageModeling(Plain())
    torch.manual_seed(int(random.integers(2**31)))
    _, _, _, labels = collator.torch_mask_tokens(torch.arange(10, 10 + length)[None])
    return (labels[0] != -100).numpy()


def runs_of(chosen: np.ndarray) -> Counter[int]:
    found: Counter[int] = Counter()
    for row in chosen:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        found.update((edges[1::2] - edges[::2]).tolist())
    return found


# ------------------------------------------------------------------------------------- span corruption


@given(st.integers(1, 300), st.integers(0, 2**32), st.floats(0.05, 0.6), st.floats(1, 8))
def test_source_and_target_hold_the_text(length: int, seed: int, density: float, mean: float) -> None:
    """Each sentinel of the source replaced by what stands behind it in the target is the text."""
    ids = np.arange(1000, 1000 + length)
    sentinels = list(range(span_corruption.most_spans(length, density, mean)))
    spans = span_corruption.noise_spans(length, np.random.default_rng(seed), density, mean)
    source, target = span_corruption.taken_out(ids, spans, sentinels)
    spoken: dict[int, list[int]] = {}
    for one in target.tolist():
        if one < 1000:
            spoken[one] = []
        else:
            spoken[list(spoken)[-1]].append(one)
    assert list(spoken) == sentinels[: len(spans)] and all(spoken.values())
    assert [one for word in source.tolist() for one in spoken.get(word, [word])] == ids.tolist()
    gone = sum(map(len, spoken.values()))
    if length > 1:
        assert gone == min(max(round(length * density), 1), length - 1)


def test_the_spans_of_512_tokens_are_t5s() -> None:
    """Raffel et al. 2020, section 3.1.4 (15 %) and 3.3.4 (mean 3): 77 tokens in 26 spans of 512."""
    assert span_corruption.noise_counts(512, 0.15, 3.0) == (77, 26)
    found = [span_corruption.noise_spans(512, np.random.default_rng(seed), 0.15, 3.0) for seed in range(200)]
    assert {len(spans) for spans in found} == {26}
    assert {sum(stop - first for first, stop in spans) for spans in found} == {77}
    assert all(spans[-1][1] == 512 and spans[0][0] > 0 for spans in found)
    starts = np.array([first for spans in found for first, _ in spans])
    assert abs(starts.mean() - 256) < 15


def test_t5s_decoder_begins_with_padding_and_everything_ends_with_the_end() -> None:
    batch = span_corruption.corrupt(
        plain(3, 40), row_numbers(0, 0, 0, 3), CPU, sentinels=range(1000, 1009), end=1, pad=0
    )
    assert batch.ids_BT[:, 0].tolist() == [0, 0, 0]
    assert batch.targets_BT[:, -1].tolist() == [1, 1, 1] and batch.source_BS[:, -1].tolist() == [1, 1, 1]
    assert torch.equal(batch.ids_BT[:, 1:], batch.targets_BT[:, :-1])


def test_every_way_to_share_is_equally_likely() -> None:
    counts = Counter(tuple(span_corruption.shares(6, 3, np.random.default_rng(seed)).tolist()) for seed in range(3000))
    assert len(counts) == math.comb(5, 2) and all(sum(way) == 6 and min(way) > 0 for way in counts)
    assert all(abs(count - 300) < 4 * math.sqrt(300 * 0.9) for count in counts.values())


# -------------------------------------------------------------------------------------- blank infilling


def test_half_of_the_rows_lose_their_end_and_half_short_spans() -> None:
    rows, length = 400, 60
    marks = blank_infilling.Marks(mask=1, gmask=2, start=3, end=4)
    batch = plain(rows, length)
    found = blank_infilling.blank(batch, row_numbers(0, 0, 0, rows), CPU, marks=marks, pad=0, axes=2)
    longs = (found.ids_BT == 2).any(1)
    assert abs(int(longs.sum()) - 200) < 40 and torch.equal(longs, ~(found.ids_BT == 1).any(1))
    scored = (found.targets_BT >= 0) & (found.targets_BT != 4)
    share_B = scored.sum(1) / length
    assert abs(float(share_B[longs].mean()) - 0.75) < 0.03 and float(share_B[longs].min()) >= 0.5
    assert float(share_B[~longs].min()) >= 0.15 and float(share_B[~longs].mean()) < 0.22
    assert found.ids_BT.shape[1] <= blank_infilling.longest_row(length)
    some = [blank_infilling.blank(batch, row_numbers(0, 0, 0, rows), CPU, marks=marks, pad=0, axes=2, long=share)
            for share in (0.0, 1.0)]  # fmt: skip
    assert not bool((some[0].ids_BT == 2).any()) and not bool((some[1].ids_BT == 1).any())


# ------------------------------------------------------------------------- losses beside transformers


def scored(name: str, **more: object) -> tuple[torch.nn.Module, object, float]:
    """A network, a batch, and the mean of our loss, on weights far from their beginning."""
    settings = settings_of(name, **more)
    model, objective = ready(settings)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    batch = objective.batch(0, 0, 1)
    return model, batch, mean(objective.loss(model, batch))


def mean(loss: Loss) -> float:
    return float(loss.total.detach() / loss.count)


def theirs(model: torch.nn.Module, folder: Path, kind: str, **generation: int) -> torch.nn.Module:
    save_checkpoint(model, folder, generation=generation)
    return getattr(transformers, kind).from_pretrained(folder).eval()


def one_document(batch: Batch) -> Batch:
    return Batch(batch.ids_BT, batch.targets_BT, np.zeros_like(batch.documents_BT))


def test_the_masked_loss_is_berts(tmp_path: Path) -> None:
    model, batch, _ = scored("masked")
    batch = batch._replace(documents_BT=torch.zeros_like(batch.documents_BT))
    loss = masked.masked_loss()(model, batch)
    expected = theirs(model, tmp_path, "BertForMaskedLM")(batch.ids_BT, labels=batch.targets_BT).loss
    assert mean(loss) == pytest.approx(float(expected), rel=1e-5)


def test_the_permutation_loss_is_xlnets(tmp_path: Path) -> None:
    """Their mask by their rule: i does not see j where j is guessed and comes no earlier in the order."""
    model, batch, _ = scored("permutation")
    batch = batch._replace(documents_BT=torch.zeros_like(batch.documents_BT))
    loss = permutation.permutation_loss()(model, batch)
    order = torch.where(batch.order_BT > 0, batch.order_BT, -1)
    unseen = (order[:, :, None] <= order[:, None]) & (batch.order_BT[:, None] > 0)
    network = theirs(model, tmp_path, "XLNetLMHeadModel")
    logits = network(
        batch.ids_BT, perm_mask=unseen.float(), target_mapping=torch.eye(CONTEXT).expand(ROWS, -1, -1)
    ).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets_BT.flatten())
    assert mean(loss) == pytest.approx(float(expected), rel=1e-5)


def test_the_span_loss_is_t5s(tmp_path: Path) -> None:
    model, batch, ours = scored("span_corruption")
    generation = made(settings_of("span_corruption"))[1].generation
    network = theirs(model, tmp_path, "T5ForConditionalGeneration", **generation)
    found = network(batch.source_BS, attention_mask=batch.seen_BS.long(), labels=batch.targets_BT).loss
    assert ours == pytest.approx(float(found), rel=1e-5)


def test_the_blank_loss_is_cross_entropy_over_what_each_token_may_see() -> None:
    """Token by token, with every position it may not see taken out of the row before the network reads it."""
    model, batch, _ = scored("blank_infilling", rows=2)
    total, count = 0.0, 0
    for row in range(2):
        for place in (batch.targets_BT[row] >= 0).nonzero().flatten().tolist()[::7]:
            seen = batch.allowed_BTS[row, place].nonzero().flatten()
            assert int(seen[-1]) == place
            context = int((batch.positions_BT[row, seen, 1] == 0).sum())
            allowed = torch.ones(len(seen), len(seen), dtype=torch.bool).tril()
            allowed[:, :context] = True
            logits = model(
                batch.ids_BT[row, seen][None],
                positions_BT=batch.positions_BT[row, seen][None],
                allowed_BTS=allowed[None],
            )[0, -1]
            total -= float(logits.log_softmax(-1)[batch.targets_BT[row, place]])
            count += 1
    sampled = batch._replace(targets_BT=batch.targets_BT.clone())
    for row in range(2):
        places = (batch.targets_BT[row] >= 0).nonzero().flatten()
        keep = torch.zeros(batch.targets_BT.shape[1], dtype=torch.bool)
        keep[places[::7]] = True
        sampled.targets_BT[row][~keep] = -100
    loss = blank_infilling.blank_infilling_loss()(model, sampled)
    assert int(loss.count) == count
    assert float(loss.total.detach()) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("name", HIDING)
def test_losses_of_sources_add_up(name: str) -> None:
    settings = settings_of(name)
    model, rows, batches, _ = made(settings)
    windows = batches.batch(0)
    batch = rows.draw(windows, row_numbers(1, 0, 0, ROWS), CPU)
    batch = batch._replace(sources_B=torch.arange(ROWS) % 2)
    total, count, parts = rows.loss({0: "books", 1: "web"})(model, batch)
    assert int(parts["books"][1] + parts["web"][1]) == int(count)
    assert float(parts["books"][0] + parts["web"][0]) == pytest.approx(float(total), rel=1e-5)
    halves = [rows.loss(None)(model, type(batch)(*(None if part is None else part[side::2] for part in batch)))
              for side in (0, 1)]  # fmt: skip
    assert float(parts["web"][0]) == pytest.approx(float(halves[1].total), rel=1e-4)


def test_attention_of_masked_and_permuted_rows_stays_in_a_document() -> None:
    """Another text in the other documents of a row changes nothing of this one's."""
    for name in ("masked", "permutation"):
        model, rows, batches, _ = made(settings_of(name))
        batch = rows.draw(batches.batch(0), row_numbers(1, 0, 0, ROWS), CPU)
        last = batch.documents_BT[:, -1:] == batch.documents_BT
        changed = torch.where(last, batch.ids_BT, batch.ids_BT.roll(1, 1))
        kept = batch._replace(targets_BT=torch.where(last, batch.targets_BT, -100))
        one, other = (rows.loss(None)(model, kept._replace(ids_BT=ids)) for ids in (batch.ids_BT, changed))
        assert int(one.count) > 5 and float(one.total) == pytest.approx(float(other.total), rel=1e-6)
