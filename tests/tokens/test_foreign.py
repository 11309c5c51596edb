"""Tokenizers of other models: the ids of `transformers`, no special token from text, written back unchanged."""

import base64
import json
import logging
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from athanor.base.errors import AthanorError
from athanor.tokens.chat import open_template
from athanor.tokens.tokenizer import DOCUMENT, SPECIAL_TOKENS, Tokenizer
from tests.tokens import makers
from tests.tokens.samples import LEARN, NASTY, random_texts, random_words, real_texts

TEXTS = [*NASTY, *LEARN[:6], *random_texts(150), *random_words(60)]


@pytest.fixture(scope="module", params=sorted(makers.MAKERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    makers.MAKERS[request.param](path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    return transformers.AutoTokenizer.from_pretrained(folder)


def spells_special(tokenizer: Tokenizer, text: str) -> bool:
    return any(token in text for token in tokenizer.special)


def test_plain_text_has_transformers_ids(tokenizer: Tokenizer, theirs: Any) -> None:
    texts = [text for text in TEXTS if not spells_special(tokenizer, text)]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        expected = theirs(text, add_special_tokens=False)["input_ids"]
        assert ids == expected, text
        assert tokenizer.encode(text) == expected, text


def test_a_rendered_template_has_transformers_ids(tokenizer: Tokenizer, theirs: Any) -> None:
    names = list(tokenizer.special)
    assert names
    for number, text in enumerate(TEXTS[:120]):
        one, other = names[number % len(names)], names[(number * 7 + 1) % len(names)]
        marked = f"{one}user\n{text}{other}{one} x{other}\n"
        ids = tokenizer.encode_template(marked)
        assert ids == theirs(marked, add_special_tokens=False)["input_ids"], marked
        assert tokenizer.special[one] in ids and tokenizer.special[other] in ids


def test_text_never_becomes_special(tokenizer: Tokenizer) -> None:
    unknown = {tokenizer.special[tokenizer.unk]} if tokenizer.unk else set()  # what is not in the vocabulary is unknown
    special = set(tokenizer.special.values())
    for token in tokenizer.special:
        for text in (token, f" {token}", f"{token}{token}", f"say {token} now", f"x{token}y"):
            found = set(tokenizer.encode(text)) & special
            assert found <= unknown, (text, found)
            assert set(tokenizer.encode_batch([text])[0]) == set(tokenizer.encode(text))


def test_what_a_model_wants_around_a_text_is_put_there(tokenizer: Tokenizer, theirs: Any, folder: Path) -> None:
    if folder.name.startswith("whisper"):
        pytest.skip("transformers puts the task around a text, which no file says")
    for text in (("the cat",), ("the cat", "a dog")):
        assert tokenizer.core.encode(*text).ids == theirs(*text)["input_ids"], text


def test_roles_are_those_of_transformers(tokenizer: Tokenizer, theirs: Any) -> None:
    roles = (tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.unk)
    assert roles == (theirs.bos_token, theirs.eos_token, theirs.pad_token, theirs.unk_token)
    for token in filter(None, roles):
        assert tokenizer.special[token] == theirs.convert_tokens_to_ids(token)
    assert tokenizer.chat_template == theirs.chat_template
    assert tokenizer.vocabulary == len(theirs)
    assert not tokenizer.native


def test_saved_again_it_is_the_same_for_us_and_transformers(tokenizer: Tokenizer, theirs: Any, tmp_path: Path) -> None:
    import transformers

    tokenizer.save(tmp_path)
    again, others = Tokenizer.load(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    name = next(iter(tokenizer.special))
    theirs_of_two = theirs("the cat", "a dog")["input_ids"]
    assert others("the cat", "a dog")["input_ids"] == theirs_of_two
    for text in TEXTS[:150]:
        assert again.encode(text) == tokenizer.encode(text)
        marked = f"{name}{text}{name} z"
        assert again.encode_template(marked) == tokenizer.encode_template(marked)
        assert others(marked, add_special_tokens=False)["input_ids"] == tokenizer.encode_template(marked)
        assert others(text)["input_ids"] == theirs(text)["input_ids"]  # with what the model wants around it
    assert (again.bos, again.eos, again.pad, again.unk) == (
        tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.unk
    )  # fmt: skip
    assert again.chat_template == tokenizer.chat_template == others.chat_template


def test_the_bytes_of_tokens_are_the_text(tokenizer: Tokenizer, folder: Path) -> None:
    table = tokenizer.token_bytes()
    assert len(table) == tokenizer.vocabulary
    for text in ("the cat sat on the mat", "it's 12 dogs", "你好"):
        spelled = b"".join(table[index] for index in tokenizer.encode(text)).decode()
        assert spelled.replace(" ", "") == text.replace(" ", "")
        if folder.name.startswith(("gpt2", "roberta", "llama3", "qwen")):
            assert spelled == text


def test_what_is_missing_is_said(tokenizer: Tokenizer) -> None:
    with pytest.raises(AthanorError) as caught:
        tokenizer.special[DOCUMENT]
    assert DOCUMENT in caught.value.what and "another model" in caught.value.what
    assert tokenizer.special.get(DOCUMENT) is None


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize("prefix", [False, True])
def test_a_sentencepiece_file_alone_is_read_as_the_library_reads_it(
    kind: str, trim: bool, prefix: bool, tmp_path: Path
) -> None:
    library = pytest.importorskip("sentencepiece")
    makers.sentencepiece(
        tmp_path, "tokenizer.model", vocab_size=700, model_type=kind, byte_fallback=True, hard_vocab_limit=False,
        remove_extra_whitespaces=trim, add_dummy_prefix=prefix,
        normalization_rule_name="nmt_nfkc" if trim else "identity",
        character_coverage=0.99,
    )  # fmt: skip
    reference = library.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.unk) == ("<s>", "</s>", "<unk>")
    for text in [
        *LEARN[:6],
        "plain  words",
        " one",
        "two ",
        "it's 12 dogs",
        "日本 q",
        "</s>",
        "<s>x",
        "",
        "ＡＢＣ１２ ½",
    ]:
        assert tokenizer.encode(text) == reference.encode(text), text


def test_byte_ranks_are_read_as_transformers_reads_them(tmp_path: Path) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    from tiktoken.load import load_tiktoken_bpe

    from athanor.tokens.pipelines import CL100K

    makers.tiktoken_file(tmp_path)
    ranks = load_tiktoken_bpe(str(tmp_path / "tokenizer.model"))
    reference = tiktoken.Encoding("x", pat_str=CL100K, mergeable_ranks=ranks, special_tokens={})
    tokenizer = Tokenizer.load(tmp_path)
    for text in TEXTS:
        assert tokenizer.encode(text) == reference.encode_ordinary(text), text


def test_tekken_is_read_as_its_own_library_and_transformers_read_it(tmp_path: Path) -> None:
    tiktoken, transformers = pytest.importorskip("tiktoken"), pytest.importorskip("transformers")
    makers.tekken(tmp_path)
    told = json.loads((tmp_path / "tekken.json").read_text())
    tokenizer, first = Tokenizer.load(tmp_path), 10
    assert tokenizer.vocabulary == told["config"]["default_vocab_size"]
    assert tokenizer.special["[/INST]"] == 4 and tokenizer.special["<SPECIAL_9>"] == 9
    kept = told["vocab"][: tokenizer.vocabulary - first]
    ranks = {base64.b64decode(row["token_bytes"]): row["rank"] for row in kept}
    reference = tiktoken.Encoding("x", pat_str=told["config"]["pattern"], mergeable_ranks=ranks, special_tokens={})
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids == [first + rank for rank in reference.encode_ordinary(text)], text
        if not spells_special(tokenizer, text):
            assert ids == theirs(text, add_special_tokens=False)["input_ids"], text
        assert tokenizer.decode(ids) == text
    marked = "<s>[INST]a b[/INST] c</s>"
    assert tokenizer.encode_template(marked) == theirs(marked, add_special_tokens=False)["input_ids"]
    makers.write(tmp_path, "tekken.json", told | {"vocab": told["vocab"][5:]})
    with pytest.raises(AthanorError, match=r"tekken\.json is no tekken file"):
        Tokenizer.load(tmp_path)


def test_m2m100_has_the_ids_of_its_vocabulary_and_a_token_for_each_language(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    makers.m2m100(tmp_path)
    theirs, tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    languages = {f"__{code}__": index for code, index in theirs.lang_code_to_id.items()}
    assert len(languages) == 100 and languages.items() <= tokenizer.special.items()
    assert tokenizer.core.encode("the cat").ids == theirs("the cat")["input_ids"]  # __zh__ … </s>
    for text in [*LEARN[:6], "plain  words ", " one", "日本 q", "ＡＢＣ１２ ½", "\U0001f642 x", *random_words(60)]:
        assert tokenizer.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], text
    told = json.loads((tmp_path / "vocab.json").read_text())
    makers.write(tmp_path, "vocab.json", {token: index for token, index in told.items() if index != 40})
    with pytest.raises(AthanorError, match=r"vocab\.json does not fit"):
        Tokenizer.load(tmp_path)


def test_nllb_has_the_ids_that_were_published(tmp_path: Path) -> None:
    """Of text those of transformers; of languages those of fairseq: behind 256,000 pieces eng_Latn is 256047."""
    transformers = pytest.importorskip("transformers")
    makers.nllb(tmp_path, src_lang="zho_Hans")
    theirs, tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    move = 640 - 256_000
    published = {"ace_Arab": 256001, "eng_Latn": 256047, "fra_Latn": 256057, "zho_Hans": 256200, "<mask>": 256203}
    assert {name: index + move for name, index in published.items()}.items() <= tokenizer.special.items()
    assert tokenizer.vocabulary == 256_204 + move
    for text in [text for text in TEXTS if not spells_special(tokenizer, text)]:
        assert tokenizer.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], text
    zh, end = tokenizer.special["zho_Hans"], tokenizer.special["</s>"]
    text = tokenizer.encode("the cat")
    assert tokenizer.core.encode("the cat").ids == [zh, *text, end]
    makers.nllb(tmp_path, legacy_behaviour=True, additional_special_tokens=["eng_Latn", "<new>"])
    older = Tokenizer.load(tmp_path)
    assert older.core.encode("the cat").ids == [*text, end, older.special["eng_Latn"]]
    assert older.special["<new>"] == tokenizer.vocabulary
    makers.nllb(tmp_path, src_lang="xx_Xxxx")
    with pytest.raises(AthanorError, match="no token xx_Xxxx"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_marian_has_a_model_for_each_side_and_looks_up_what_they_cut(kind: str, tmp_path: Path) -> None:
    transformers, _ = pytest.importorskip("transformers"), pytest.importorskip("sentencepiece")
    makers.marian(tmp_path, kind)
    theirs, tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    (tmp_path / "saved").mkdir()
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    texts = [">>fra<< the cat", ">>xyz<< the cat", ">>fra<<", "a >>fra<<", ">>a", "한국어 문장", "x한국어x", *TEXTS]
    for text in [text for text in texts if not spells_special(tokenizer, text)]:
        expected = theirs(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.encode(text) == again.encode(text) == expected, text
        written = theirs(text_target=text, add_special_tokens=False)["input_ids"]
        assert tokenizer.encode_target(text) == again.encode_target(text) == written, text
    text = ">>fra<< the cat sat on the mat"
    assert tokenizer.core.encode("").ids == [tokenizer.special["</s>"]] == theirs("")["input_ids"]
    assert tokenizer.encode_template(f"{text}</s>") == theirs(text)["input_ids"]
    assert tokenizer.decode(tokenizer.encode_target("the cat sat")) == theirs.decode(
        theirs(text_target="the cat sat", add_special_tokens=False)["input_ids"]
    )
    assert tokenizer.encode("</s>") != [tokenizer.special["</s>"]]
    makers.write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "MarianTokenizer", "separate_vocabs": True})
    with pytest.raises(AthanorError, match="separate_vocabs"):
        Tokenizer.load(tmp_path)


def test_what_pegasus_names_stands_where_it_was_published(tmp_path: Path) -> None:
    makers.pegasus(tmp_path)
    plain = Tokenizer.load(tmp_path)
    named = {"mask_token": "<mask_2>", "mask_token_sent": "<mask_1>", "offset": 103}
    makers.write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "PegasusTokenizer", **named})
    tokenizer = Tokenizer.load(tmp_path)
    for one in (plain, tokenizer):
        assert [one.special[name] for name in ("<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk_2>", "<unk>")] == [
            0, 1, 2, 3, 4, 105,
        ]  # fmt: skip
    assert tokenizer.encode("the cat") == plain.encode("the cat")


UNIGRAMS = ("MBartTokenizer", "MBart50Tokenizer", "CamembertTokenizer")
REAL_CLASSES = {
    "NllbTokenizer": makers.nllb, "MarianTokenizer": makers.marian, "DebertaV2Tokenizer": makers.deberta,
    "PegasusTokenizer": makers.pegasus, **{name: partial(makers.fairseq_unigram, name=name) for name in UNIGRAMS},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL_CLASSES)
def test_real_lines_have_transformers_ids(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8,000 lines of English, Chinese, both mixed and 75 languages, by a vocabulary of such lines."""
    transformers, _ = pytest.importorskip("transformers"), pytest.importorskip("sentencepiece")
    lines = [text.replace("\n", " ") for file, most in (("en_zh_python_docs", 3000), ("langid_sentences", 4000),
             ("zh_classical_modern", 1500), ("en_rust_book", 40)) for text in real_texts(file, most, 400)]  # fmt: skip
    random.Random(0).shuffle(lines)
    monkeypatch.setattr(makers, "LEARN", lines[:4000])
    monkeypatch.setattr(makers, "LARGER", {"vocab_size": 6000})
    REAL_CLASSES[name](tmp_path)
    theirs, tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    tried = [line for line in [*lines, *TEXTS] if not spells_special(tokenizer, line)]
    assert len(tried) > 8000 and tokenizer.vocabulary > 4000
    expected = [theirs(line, add_special_tokens=False)["input_ids"] for line in tried]
    different = [line for line, ids in zip(tried, expected, strict=True) if tokenizer.encode(line) != ids]
    assert not different, (len(different), different[:5])


@pytest.mark.parametrize("legacy", [None, False, True])
def test_llama_puts_spaces_where_transformers_does(legacy: bool | None, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    makers.llama2(tmp_path, **({} if legacy is None else {"legacy": legacy}))
    theirs, tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    for text in ("<s>a b</s>c", "a</s> b", " a", "</s>", "<s> </s>x"):
        assert tokenizer.encode_template(text) == theirs(text, add_special_tokens=False)["input_ids"], text


@pytest.mark.parametrize("model", [None, "llama"])
@pytest.mark.parametrize("name", ["LlamaTokenizerFast", "PreTrainedTokenizerFast"])
def test_llamas_tokenizer_json_is_read_as_its_class_reads_it(name: str, model: str | None, tmp_path: Path) -> None:
    """As published: spaces are made by a normalizer, which transformers 5 replaces for LlamaTokenizer only."""
    transformers = pytest.importorskip("transformers")
    makers.llama2(tmp_path)
    told = json.loads(Tokenizer.load(tmp_path).core.to_str())
    told["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]}  # fmt: skip
    told["pre_tokenizer"] = None
    (tmp_path / "tokenizer.model").unlink()
    makers.write(tmp_path, "tokenizer.json", told)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    makers.write(tmp_path, "tokenizer_config.json", config | {"tokenizer_class": name})
    if model is not None:  # the model's own class does not come before the one that is named
        makers.write(tmp_path, "config.json", {"model_type": model})
    theirs, tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    for text in ("<s>a b</s>c", " a", "</s> x", "the cat  sat", *LEARN[:6], "日本 q\n\t"):
        assert tokenizer.encode_template(text) == theirs(text, add_special_tokens=False)["input_ids"], text


def test_python_code_is_refused_by_name(tmp_path: Path) -> None:
    makers.llama3(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    makers.write(tmp_path, "tokenizer_config.json", config | {"auto_map": {"AutoTokenizer": ["tok.Mine", None]}})
    with pytest.raises(AthanorError, match=r"tok\.Mine"):
        Tokenizer.load(tmp_path)
    makers.write(tmp_path, "tokenizer_config.json", config)
    (tmp_path / "tokenization_mine.py").write_text("raise SystemExit('ran')")
    with pytest.raises(AthanorError, match=r"tokenization_mine\.py"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(("name", "content", "said"), [
    ("tokenizer.json", "{", "tokenizer.json"), ("tokenizer.json", "{}", "tokenizer.json"),
    ("tokenizer.model", "\x08\x96\x01\x0a\xff", "tokenizer.model"), ("tokenizer.model", "YQ== 0\nYg== x\n", "line 2"),
    ("tokenizer.model", "YQ== 0\n", "256"), ("vocab.txt", "a\na\n", "[UNK]"), ("other.txt", "", "nothing older"),
])  # fmt: skip
def test_damaged_files_are_named(name: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(AthanorError) as caught:
        Tokenizer.load(tmp_path)
    assert said in str(caught.value)


CLASS = b'{"tokenizer_class": "GPT2Tokenizer", '


@pytest.mark.parametrize(("maker", "name", "content", "said"), [
    ("gpt2", "merges.txt", b"a \xff\n", "merges.txt is not UTF-8"),
    ("gpt2", "tokenizer_config.json", CLASS + b'"extra_special_tokens": 5.5}', "a list"),
    ("bert", "vocab.txt", b"\xc3", "vocab.txt is not UTF-8"),
    ("gpt2", "chat_template.jinja", b"\xc3(", "chat_template.jinja is not UTF-8"),
    ("gpt2", "tokenizer_config.json", CLASS + b'"added_tokens_decoder": {"5": {"special": true}}}', "tokenizer_config"),
    ("gpt2", "tokenizer_config.json", CLASS + b'"additional_special_tokens": [{"id": 5}]}', "tokenizer_config"),
    ("gpt2", "tokenizer_config.json", CLASS + b'"added_tokens_decoder": {"x": {"content": "y"}}}', "tokenizer_config"),
])  # fmt: skip
def test_damage_in_any_file_is_an_error_of_that_file(maker, name, content, said, tmp_path: Path) -> None:
    makers.MAKERS[maker](tmp_path)
    (tmp_path / "tokenizer.json").unlink(missing_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AthanorError, match=said):
        Tokenizer.load(tmp_path)


DOUBLE = {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}
OTHER_CASE = {"type": "Replace", "pattern": {"String": "e"}, "content": "EE"}
EVERY = {"type": "Replace", "pattern": {"Regex": "[a-z]"}, "content": "e" * 40}


@pytest.mark.parametrize(("part", "rules", "said"), [
    ("normalizer", [DOUBLE] * 34, "times as long"), ("normalizer", [EVERY] * 2, "times as long"),
    ("normalizer", [OTHER_CASE, {"type": "Lowercase"}] * 20, "times as long"),
    ("normalizer", [{"type": "Prepend", "prepend": "x" * 50_000}], "times as long"),
    ("decoder", [{"type": "Sequence", "decoders": [DOUBLE] * 20}], "times as long"),
    ("normalizer", [{"type": "Precompiled", "precompiled_charsmap": "AAAA"}], "cannot be read as a tokenizer"),
])  # fmt: skip
def test_rules_that_fill_the_memory_or_break_the_library_are_refused(part, rules, said, tmp_path: Path) -> None:
    """In the hands of the library 34 doublings ask for 17 GB, and a broken table is a panic that is no Exception."""
    makers.llama3(tmp_path)
    told = json.loads((tmp_path / "tokenizer.json").read_text())
    told[part] = {"type": "Sequence", "normalizers" if part == "normalizer" else "decoders": rules}
    makers.write(tmp_path, "tokenizer.json", told)
    with pytest.raises(AthanorError, match=said):
        Tokenizer.load(tmp_path)


def test_an_id_that_no_vocabulary_reaches_is_an_error_of_the_file(tmp_path: Path) -> None:
    makers.llama3(tmp_path)
    told = json.loads((tmp_path / "tokenizer.json").read_text())
    told["model"]["vocab"]["zz"] = 2**32 - 1
    makers.write(tmp_path, "tokenizer.json", told)
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(AthanorError, match="cannot be written and read again"):
        open_template(Tokenizer.load(tmp_path))


def test_a_class_that_is_not_known_is_not_guessed(tmp_path: Path) -> None:
    makers.gpt2(tmp_path)
    makers.write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "MysteryTokenizer"})
    with pytest.raises(AthanorError, match="MysteryTokenizer"):
        Tokenizer.load(tmp_path)


def test_ids_that_contradict_the_vocabulary_are_refused(tmp_path: Path) -> None:
    makers.gpt2(tmp_path)
    added = {"5": {"content": "<|new|>", "special": True}}
    makers.write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": added})
    with pytest.raises(AthanorError, match="the id 5"):
        Tokenizer.load(tmp_path)


def test_ours_is_native(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(LEARN, 400)
    tokenizer.save(tmp_path, "{{ messages }}")
    again = Tokenizer.load(tmp_path)
    assert again.native and tuple(again.special) == SPECIAL_TOKENS
    assert (again.bos, again.eos, again.pad, again.unk) == (DOCUMENT, "<|end|>", "<|end|>", None)
    assert again.chat_template == "{{ messages }}"
