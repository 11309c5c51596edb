"""Tokenizers of other models: the ids of `transformers`, no special token from text, written back unchanged."""

import base64
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from athanor.base.errors import AthanorError
from athanor.tokens.tokenizer import DOCUMENT, SPECIAL_TOKENS, Tokenizer
from tests.tokens import makers
from tests.tokens.samples import LEARN, NASTY, random_texts, random_words

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
