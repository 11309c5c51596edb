"""The fast encoder: the reference's ids on every text, and no fast encoder where that cannot be proven."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from athanor.base import native
from athanor.tokens import fast, pipelines
from athanor.tokens.compiled import FORMS, KINDS, NOT_WHOLE, character_kinds
from athanor.tokens.fast import PATTERNS, CompiledFast, FastEncoder, TiktokenFast, fast_encoder
from athanor.tokens.letters import letters_of
from athanor.tokens.tokenizer import Tokenizer
from tests.tokens import makers
from tests.tokens.samples import LEARN, NASTY, random_texts, random_words, real_texts

ADVERSARIAL = [
    " " * 5_000, " " * 70_000 + "x", "\n" * 70_000, " \n" * 40_000, "\t " * 40_000 + "end", "a" * 20_000, "=" * 20_000,
    "\u3000\u00a0" * 40_000, "ab" * 10_000, "好" * 5_000, "'" * 3_000, "1" * 3_000, "x " * 3_000, "🙂" * 2_000,
]  # fmt: skip
TEXTS = [*NASTY, *LEARN[:6], *random_texts(400), *random_words(150), "x<think> a</think>y", "e\u0301<think>"]


@pytest.fixture(scope="module", autouse=True, params=["the C library", "tiktoken"])
def encoder(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test runs with the C library and without it."""
    if request.param == "the C library" and not native.available():
        pytest.skip(f"the C library is not in use: {native.describe()}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "available", lambda: request.param == "the C library")
        yield request.param


@pytest.fixture(scope="module")
def ours(encoder: str) -> Tokenizer:
    return Tokenizer.train(LEARN, 900)


@pytest.fixture(scope="module", params=["ours", "gpt2", "llama3", "qwen", "roberta", "ranks"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ours: Tokenizer) -> Tokenizer:
    if request.param == "ours":
        return ours
    folder = tmp_path_factory.mktemp(request.param)
    makers.tiktoken_file(folder) if request.param == "ranks" else makers.MAKERS[request.param](folder)
    return Tokenizer.load(folder)


def reference(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    rows = tokenizer._plain.encode_batch(texts, add_special_tokens=False)
    return [row.ids for row in rows]


def assert_same(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert tokenizer.prepare_fast()
    expected = reference(tokenizer, texts)
    for text, ids, fast_ids in zip(texts, expected, tokenizer.encode_corpus(texts), strict=True):
        assert fast_ids.dtype == np.uint32
        assert fast_ids.tolist() == ids, text[:200]
        assert tokenizer.encode(text) == ids
    assert tokenizer.encode_batch(texts) == expected


def test_the_ids_are_the_references(tokenizer: Tokenizer) -> None:
    assert_same(tokenizer, TEXTS)


def test_the_ids_are_the_references_on_endless_runs(tokenizer: Tokenizer) -> None:
    assert_same(tokenizer, ADVERSARIAL)


def test_a_million_spaces_do_not_overflow_the_stack(ours: Tokenizer) -> None:
    assert_same(ours, [" " * 1_100_000 + "x"])


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(" \n\t\r'sſ12aé好🙂")))
def test_the_ids_are_the_references_on_any_text(ours: Tokenizer, text: str) -> None:
    assert_same(ours, [text])


@pytest.mark.parametrize("name", ["udhr", "en_gutenberg", "zh_poetry", "langid_sentences"])
def test_the_ids_are_the_references_on_real_text(name: str) -> None:
    texts = real_texts(name, 388, letters=5_000)
    tokenizer = Tokenizer.train([*texts[::3], *LEARN], 3000)
    assert_same(tokenizer, texts)


def test_every_character_between_others(ours: Tokenizer) -> None:
    every = [chr(code) for code in range(0, 0x110000, 7) if not 0xD800 <= code <= 0xDFFF]
    texts = ["".join(every[place : place + 500]) for place in range(0, len(every), 500)]
    texts += [" ".join(every[place : place + 500]) for place in range(0, len(every), 5_000)]
    texts += ["'".join(every[place : place + 500]) for place in range(0, len(every), 5_000)]
    assert_same(ours, texts)


def test_all_libraries_know_the_same_letters_digits_and_spaces() -> None:
    assert fast._same_classes()
    kinds = character_kinds()
    assert kinds is not None and set(PATTERNS) == set(FORMS)
    for kind, pattern in KINDS.items():
        found = "".join(map(chr, np.flatnonzero(kinds == kind)))
        assert normalizers.Replace(Regex(pattern), "").normalize_str(found) == ""


def test_half_a_surrogate_pair_is_an_error_in_both(ours: Tokenizer) -> None:
    assert ours.prepare_fast()
    for encode in (ours.encode, lambda text: list(ours.encode_corpus([text])), ours._plain.encode):
        with pytest.raises((UnicodeEncodeError, TypeError)):
            encode("x\ud800y")


# ------------------------------------------------------------------------------------------ where it must not be used


def with_model(change: Any, pre: pre_tokenizers.PreTokenizer | None = None) -> tokenizers.Tokenizer:
    """Our tokenizer with its JSON changed."""
    told = json.loads(Tokenizer.train(LEARN, 500).core.to_str())
    change(told)
    core = tokenizers.Tokenizer.from_str(json.dumps(told))
    core.encode_special_tokens = True
    return core


def swap_merges(told: dict[str, Any]) -> None:
    """A merge that needs a part made only later."""
    merges = told["model"]["merges"]
    late = next(place for place, (left, right) in enumerate(merges) if len(left) > 1 and place > 20)
    merges.insert(0, merges.pop(late))


def add_word_that_no_merge_makes(told: dict[str, Any]) -> None:
    told["model"]["ignore_merges"] = True
    told["model"]["vocab"]["qzqz"] = len(told["model"]["vocab"])


@pytest.mark.parametrize("change", [
    add_word_that_no_merge_makes,
    lambda told: told["model"].update(dropout=0.1),
    lambda told: told["model"].update(end_of_word_suffix="</w>", merges=[]),
    lambda told: told.update(normalizer={"type": "Lowercase"}),
    lambda told: told["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
    lambda told: told["pre_tokenizer"]["pretokenizers"][1].update(use_regex=True),
    lambda told: told["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\w+|\W"),
    lambda told: told["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"),
    lambda told: told["model"]["vocab"].pop(letters_of(b"\xff")),
])  # fmt: skip
def test_what_is_not_exact_is_left_to_the_reference(change: Any) -> None:
    assert fast_encoder(with_model(lambda told: None)) is not None
    assert fast_encoder(with_model(change)) is None


def encode(fast_one: FastEncoder, text: str) -> list[int]:
    return fast_one.encode_block([text])[0].tolist()


def test_merges_in_another_order_are_for_the_c_library_only(encoder: str) -> None:
    core = with_model(swap_merges)
    found = fast_encoder(core)
    assert (found is not None) == (encoder == "the C library")
    if found is not None:
        assert all(encode(found, text) == core.encode(text).ids for text in TEXTS)


def build(merges: list[tuple[bytes, bytes]], ids: list[bytes] | None = None) -> tokenizers.Tokenizer:
    tokens = ids or [*(bytes([byte]) for byte in range(256)), *dict.fromkeys(a + b for a, b in merges)]
    pairs = [(letters_of(left), letters_of(right)) for left, right in merges]
    vocabulary = {letters_of(token): index for index, token in enumerate(tokens)}
    core = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return core


def test_a_pair_that_is_no_merge_but_spells_a_token_is_seen(encoder: str) -> None:
    """With (a,b), (ab,c) and (b,c), the letters "bc" before "ab": the token abc is made of a and bc, no listed pair."""
    assert fast_encoder(build([(b"a", b"b"), (b"ab", b"c"), (b"b", b"c")])) is not None
    other = fast_encoder(build([(b"b", b"c"), (b"a", b"b"), (b"ab", b"c")]))
    assert (other is None) == (encoder == "tiktoken")


def test_a_tokenizer_without_a_fast_path_encodes_by_the_reference(encoder: str) -> None:
    tokenizer = Tokenizer(build([(b"b", b"c"), (b"a", b"b"), (b"ab", b"c")]))
    texts = ["abc abcab " * 30_000, "cab", ""]
    assert [ids.tolist() for ids in tokenizer.encode_corpus(texts)] == reference(tokenizer, texts)
    assert tokenizer.prepare_fast() == (encoder == "the C library")


@pytest.mark.parametrize("mark", [None, 7])
def test_marks_stand_before_each_text_whoever_encodes_it(ours: Tokenizer, mark: int | None) -> None:
    slow = Tokenizer.train(LEARN, 900)  # its fast encoder is not made ready: the texts are few
    told = json.loads(ours.core.to_str())
    told["added_tokens"].append({**told["added_tokens"][0], "id": 900, "content": "<kept>", "special": False})
    mixed = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(told)))
    assert mixed.prepare_fast() and ours.prepare_fast()
    texts = ["a b", "", "<kept> x", "好 <kept>", "end"]
    for one, some in ((ours, texts), (slow, texts), (mixed, texts), (ours, []), (mixed, texts[2:3])):
        blocks = list(one.encode_blocks(some, mark))
        found = [part.tolist() for ids, ends in blocks for part in np.split(ids, ends[:-1])]
        assert found == [[*([] if mark is None else [mark]), *one._plain.encode(text).ids] for text in some]


def test_ids_need_not_be_in_the_order_of_merging() -> None:
    merges = [(b"a", b"b"), (b"ab", b"c"), (b"b", b"c"), (b"c", b"abc")]
    singles = [bytes([byte]) for byte in range(256)]
    core = build(merges, [b"cabc", b"bc", *reversed(singles), b"abc", b"ab"])
    found = fast_encoder(core)
    assert found is not None and (not isinstance(found, TiktokenFast) or found.ids is not None)
    for text in ("abc", "cabc", "bcabcab", "xabcc cabcabbc", "äöü"):
        assert encode(found, text) == core.encode(text).ids


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_random_merges_are_either_refused_or_exact(data: st.DataObject) -> None:
    """Any list of merges over three letters: what is accepted gives the same ids on any word of them."""
    tokens = [b"a", b"b", b"c"]
    merges: list[tuple[bytes, bytes]] = []
    for _ in range(data.draw(st.integers(1, 8))):
        pair = (data.draw(st.sampled_from(tokens)), data.draw(st.sampled_from(tokens)))
        if pair not in merges and len(pair[0] + pair[1]) <= 6:
            merges.append(pair)
            if pair[0] + pair[1] not in tokens:
                tokens.append(pair[0] + pair[1])
    shuffled = data.draw(st.permutations(merges)) if data.draw(st.booleans()) else merges
    core = build(shuffled)
    found = fast_encoder(core)
    if found is None:
        return
    for word in data.draw(st.lists(st.text("abc", min_size=1, max_size=14), min_size=1, max_size=10)):
        assert encode(found, word) == core.encode(word).ids, (shuffled, word)


HAN = "天大夫人么国"  # some with the same first bytes


def merges_of(letters: str) -> list[tuple[bytes, bytes]]:
    """The merges that make these characters, byte after byte."""
    pairs = [pair for letter in letters for b in [letter.encode()] for pair in ((b[:1], b[1:2]), (b[:2], b[2:]))]
    return list(dict.fromkeys(pairs))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_random_merges_of_parts_of_characters_are_exact(data: st.DataObject) -> None:
    """Merges of neighbours in a text of Han characters, of their parts and across their borders, in any order."""
    first = data.draw(st.sampled_from(["", HAN[3:], HAN]))  # whose own merges come first, as in what is learnt
    merges = merges_of(first)
    parts = []
    for letter in data.draw(st.text(HAN, min_size=4, max_size=10)):
        together = letter in first and data.draw(st.booleans())
        parts += [letter.encode()] if together else [bytes([byte]) for byte in letter.encode()]
    for _ in range(data.draw(st.integers(1, 14))):
        place = data.draw(st.integers(0, max(0, len(parts) - 2)))
        pair = tuple(parts[place : place + 2])
        if len(pair) == 2 and pair not in merges:
            merges.append(pair)
            parts[place : place + 2] = [b"".join(pair)]
    if data.draw(st.booleans()):
        merges = data.draw(st.permutations(merges))
    if data.draw(st.booleans()):
        merges = list(dict.fromkeys([*merges, *merges_of(HAN)]))
    core = build(merges)
    found = fast_encoder(core)
    if found is None:
        return
    for word in data.draw(st.lists(st.text(HAN, min_size=1, max_size=12), min_size=4, max_size=10)):
        assert encode(found, word) == core.encode(word).ids, (merges, word)


def test_learnt_characters_are_merged_first(encoder: str) -> None:
    found = fast_encoder(Tokenizer.train(["\n".join(HAN * 9)], 400).core)
    if isinstance(found, CompiledFast):
        whole = np.flatnonzero(found.encoder._characters.ids != NOT_WHOLE)
        assert "".join(map(chr, whole)) == "".join(sorted(HAN))


def test_most_learnt_vocabularies_are_taken(tmp_path: Path) -> None:
    for size in (300, 700, 1500):
        assert fast_encoder(Tokenizer.train(LEARN, size).core) is not None
    makers.clip(tmp_path)
    assert not Tokenizer.load(tmp_path).prepare_fast()
    assert pipelines.QWEN2 in fast.PATTERNS
